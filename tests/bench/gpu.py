"""Measures liblisa on a GPU, beside the device's own rates and PyTorch, and prints a Markdown table.

    gpu.py [--tiny]

Each round takes steps of liblisa, a product of 8192 x 8192 matrices of bf16 and a copy of 1 GiB
through the backend's own table, so that a device that has become warm is so for all; PyTorch
follows, when liblisa's memory is free again. LISA_BENCH_TORCH_NEW names its Python. On the tests'
host device, where a processor stands for a GPU, sizes are always --tiny, and each row says what it
is. Ends with 77 where the backend does not start, and with 1 where a row fails.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import bench
import flops

LLAMA2_7B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2,
}
TINY = {**LLAMA2_7B, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64}
bench.CONFIGS.update({"LLaMA-2-7B": LLAMA2_7B, "tiny": TINY})

COLUMNS = ("work", "step", "tokens/s", "of the product rate", "of the copy rate",
           "GiB planned, held, driver", "PyTorch")
NOT_A_GPU = "HOST DEVICE, NO GPU: "


class Work(NamedTuple):
    method: str
    model: str
    batch: int
    tokens: int
    more: dict

    def title(self):
        more = "".join(f", {key} {value}" for key, value in self.more.items())
        return f"{self.method}, {self.model}, bf16, {self.batch}x{self.tokens}{more}"


WORKS = (
    Work("lisa", "SmolLM2", 8, 1024, {}),
    Work("lisa", "SmolLM2", 8, 1024, {"states": "offload"}),
    Work("full", "SmolLM2", 8, 1024, {}),
    Work("lora", "SmolLM2", 8, 1024, {}),
    Work("lisa", "LLaMA-2-7B", 1, 1024, {}),
    Work("lisa", "LLaMA-2-7B", 4, 1024, {"activations": "recompute"}),
    Work("lisa", "LLaMA-2-7B", 1, 1024, {"weights": "streamed"}),
    Work("lora", "LLaMA-2-7B", 1, 1024, {}),
)


class Sizes(NamedTuple):
    product: int = 8192
    copy: int = 1 << 30
    steps: int = 10


def least_bytes(shape, trained):
    """Of a step in bf16: weights of products are read forward and backward; of what trains,
    gradient, f32 moments, weight and low bits are read and written."""
    weights = shape.layers * shape.layer_parameters() + shape.vocabulary * shape.width
    return 2 * 2 * weights + trained * 2 * (4 + 8 + 2 + 2)


def liblisa(work):
    settings = {"config": bench.directory_of(work.model, bench.CONFIGS[work.model]),
                "backend": "cuda", "dtype": "bf16", "method": work.method, "batch": work.batch,
                "tokens": work.tokens, **work.more}
    return bench.Worker([bench.PROGRAMS / "workload", *bench.words(settings)])


def rate():
    return bench.Worker([bench.PROGRAMS / "rate_device", "cuda"])


def measured(run, work, sizes):
    """liblisa in turn with the rates: the row's cells but the first and the last, and the times."""
    words = {"liblisa": f"steps {sizes.steps}", "rate": f"gemm {sizes.product}",
             "copy": f"copy {sizes.copy}"}
    with run.workers({"liblisa": lambda: liblisa(work), "rate": rate, "copy": rate}) as (found, _):
        times = run.interleave(found, words)
        report = found["liblisa"].ask("report")
    shape = flops.Shape.of(bench.CONFIGS[work.model])
    useful = flops.useful(shape, work.batch, work.tokens, flops.Method(work.method))
    moved = least_bytes(shape, report["trained"])
    own, product = times["liblisa"], times["rate"]
    copied = [2 * sizes.copy / seconds for seconds in times["copy"]]
    seconds = statistics.median(own)
    shares = [statistics.median(amount / t / r for t, r in zip(own, rates))
              for amount, rates in ((useful, product), (moved, copied))]
    gib = [f"{report[key] / bench.GIB:.3f}" for key in ("plan", "held", "driver held")]
    return own, (f"{1e3 * seconds:.2f} ms", f"{work.batch * work.tokens / seconds:.0f}",
                 f"{shares[0]:.3f} of {statistics.median(product) / 1e12:.3g} TFLOP/s",
                 f"{shares[1]:.3f} of {statistics.median(copied) / 1e9:.3g} GB/s", ", ".join(gib))


def peer(run, work, sizes, own):
    """PyTorch's LISA and LoRA: bf16 throughout, its moments too, and no master."""
    if "weights" in work.more or "states" in work.more:
        return "no such mode"
    settings = {"method": work.method, "batch": work.batch, "tokens": work.tokens,
                "device": "cuda", "dtype": "bf16",
                "checkpoint": int(work.more.get("activations") == "recompute")}
    with run.workers({"PyTorch": lambda: bench.torch(work.model, "new", **settings)}) as (
            found, missing):
        if missing:
            return missing[0]
        try:
            times = run.interleave(found, {"PyTorch": f"steps {sizes.steps}"})["PyTorch"]
            held = found["PyTorch"].ask("report")["held"]
        except RuntimeError as error:
            return f"failed: {error}"
    return (f"{bench.ratio(times, own):.2f}x ({1e3 * statistics.median(times):.2f} ms), "
            f"{held / bench.GIB:.2f} GiB")


def device():
    """What the driver calls the devices it has."""
    with contextlib.suppress(OSError):
        said = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version",
                               "--format=csv,noheader"], text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        return "; ".join(said.splitlines()) or "a GPU"
    return "a GPU"


def line(cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def table(run, works, sizes, label):
    """Whether all rows could be measured."""
    good = True
    line(COLUMNS)
    line(["---"] * len(COLUMNS))
    for work in works:
        try:
            own, cells = measured(run, work, sizes)
            cells = (*cells, peer(run, work, sizes, own))
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            good = False
            cells = (f"failed: {error}", *[""] * (len(COLUMNS) - 2))
        line((label + work.title(), *cells))
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="sizes that only try the program out")
    arguments = parser.parse_args()
    found = subprocess.run([bench.PROGRAMS / "rate_device", "cuda"], input="who\n", text=True,
                           check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if found.returncode != 0:
        print(f"no GPU to measure: {found.stderr.strip()}")
        return found.returncode
    host_device = "1" in found.stdout
    works, sizes, label = WORKS, Sizes(), ""
    tiny = arguments.tiny or host_device
    if tiny:
        works = [work._replace(model="tiny", batch=1, tokens=16) for work in WORKS]
        sizes = Sizes(product=32, copy=1 << 16, steps=1)
    if host_device:
        label = NOT_A_GPU
        print(label + "a processor stands for it, and no figure says anything of a GPU.\n")
    else:
        print(f"{device()}; {time.strftime('%Y-%m-%d', time.gmtime())}.\n")
    bench.OUT.mkdir(parents=True, exist_ok=True)
    (bench.OUT / "workers.log").write_text("")
    return 0 if table(bench.Bench(tiny), works, sizes, label) else 1


if __name__ == "__main__":
    sys.exit(main())
