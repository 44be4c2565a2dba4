"""Measures what liblisa promises on the CPU, beside its peers, and prints one table in Markdown.

    bench.py [--quick] [--only ROW] [--write FILE]

Workers (workload.c, rate.c, peer_torch.py) live side by side and take one step each in turn, so
that a slow minute is slow for all. Figures are medians over the rounds; a ratio is the median of
the rounds' own ratios. Environment: LISA_BENCH_TORCH, a python with PyTorch (Debian's, for the
tuned and the stock rows), LISA_BENCH_TORCH_NEW (the newest), LISA_BENCH_7B (a model directory),
BUILD (build/release). What is not there is named as missing.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import flops
import growth

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD", TOP / "build/release"))
PROGRAMS = BUILD / "tests/bench"
OUT = TOP / "build/bench"
MARKS = "<!-- bench -->", "<!-- end of bench -->"
MIB, GIB = 2.0**20, 2.0**30
THREADS = 2

SMOLLM2 = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "tie_word_embeddings": True,
    "vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2,
}
GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
    "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "n_ctx": 1024,
    "layer_norm_epsilon": 1e-5, "vocab_size": 50257, "bos_token_id": 50256,
    "eos_token_id": 50256,
}
CONFIGS = {"SmolLM2": SMOLLM2, "GPT-2": GPT2}

# What makes PyTorch fast here: threads that sleep, and memory that is kept.
TUNED = {
    "OMP_WAIT_POLICY": "passive", "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TRIM_THRESHOLD_": "20000000000", "MALLOC_TOP_PAD_": "268435456",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class Missing(Exception):
    """A peer or a model that is not installed."""


class Worker:
    """A program that answers a line with a line of JSON."""

    def __init__(self, command, environment=None):
        self.log = open(OUT / "workers.log", "a", encoding="utf-8")
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, text=True, env={**os.environ, **(environment or {})})

    def ask(self, text):
        try:
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{pathlib.Path(self.process.args[0]).name} ended with "
                               f"{self.process.wait()}; see build/bench/workers.log")
        return json.loads(line)

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


def words(settings):
    return [f"{key}={value}" for key, value in settings.items()]


def directory_of(name, config):
    """A directory with nothing but the config.json."""
    directory = OUT / "models" / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def weights_of(name, dtype):
    """A model in files, random weights; made once."""
    source = directory_of(name, CONFIGS[name])
    directory = OUT / "models" / f"{name}-{dtype}"
    if not (directory / "model.safetensors").exists():
        subprocess.run([PROGRAMS / "workload", f"config={source}", f"dtype={dtype}",
                        f"save={directory}"], check=True)
    return directory


def lisa(name, dtype="f32", **settings):
    settings = {"model": weights_of(name, dtype), "threads": THREADS, **settings}
    return Worker([PROGRAMS / "workload", *words(settings)])


def torch(name, environment, **settings):
    variable = "LISA_BENCH_TORCH_NEW" if environment == "new" else "LISA_BENCH_TORCH"
    python = os.environ.get(variable)
    if not python:
        raise Missing(f"PyTorch ({environment}) is missing: {variable} is not set")
    if not os.access(python, os.X_OK):
        raise Missing(f"PyTorch ({environment}) is missing: {variable}={python}")
    settings = {"config": directory_of(name, CONFIGS[name]), "threads": THREADS, **settings}
    return Worker([python, TOP / "tests/bench/peer_torch.py", *words(settings)],
                  None if environment == "stock" else TUNED)


def rate_of(found):
    """A worker whose "run" is the rate on these products."""
    worker = Worker([PROGRAMS / "rate", THREADS])
    lines = [f"{count} {m} {n} {k} {a} {b}" for (m, n, k, a, b), count in found.items()]
    worker.ask("\n".join([f"list {len(lines)}", *lines]))
    return worker


def ratio(over, under):
    return statistics.median(a / b for a, b in zip(over, under))


class Bench:
    def __init__(self, quick):
        self.quick = quick
        self.rounds = 1 if quick else 3
        self.end = time.monotonic() + (240 if quick else 2400)
        self.rows = []
        self.results = {}

    def late(self):
        return time.monotonic() > self.end

    def add(self, work, target, reached):
        self.rows.append((work, target, reached))
        print(f"| {work} | {target} | {reached} |", flush=True)

    @contextlib.contextmanager
    def workers(self, makers):
        """Those that could be started, and what is missing."""
        with contextlib.ExitStack() as stack:
            found, missing = {}, []
            for name, maker in makers.items():
                try:
                    found[name] = maker()
                    stack.callback(found[name].close)
                except Missing as error:
                    missing.append(str(error))
            yield found, missing

    def interleave(self, found, words_of=None):
        """{worker: [seconds of each round]}, without a first round that warms up."""
        times = {name: [] for name in found}
        for number in range(self.rounds + 1):
            if number > 1 and self.late():
                break
            for name, worker in found.items():
                word = "run" if name == "rate" else "step"
                answer = worker.ask((words_of or {}).get(name, word))
                if number > 0:
                    value = (answer["flops"] / answer["seconds"] if name == "rate"
                             else answer["seconds"])
                    times[name].append(value)
        return times


def speed_text(times, work):
    """Useful FLOPs over time, over the rate of the same round."""
    own = times["liblisa"]
    share = statistics.median(work / t / r for t, r in zip(own, times["rate"]))
    parts = [f"{share:.2f} of the rate ({statistics.median(times['rate']) / 1e9:.0f} GFLOP/s), "
             f"{statistics.median(own):.2f} s"]
    for peer, seconds in times.items():
        if peer not in ("liblisa", "rate"):
            parts.append(f"{ratio(seconds, own):.2f}x {peer} ({statistics.median(seconds):.2f} s)")
    return parts


def speed(bench, title, target, name, batch, tokens, method, dtype="f32", peers=("tuned",),
          **settings):
    """liblisa, the rate of its products, and peers in turn."""
    if bench.late():
        bench.add(title, target, "left out: the time of the run was up")
        return
    shape = flops.Shape.of(CONFIGS[name])
    how = flops.Method(method)
    common = {"method": method, "batch": batch, "tokens": tokens}
    found_products = flops.products(shape, batch * tokens, how, head_rows=256,
                                    scored=batch * (tokens - 1))
    makers = {"liblisa": lambda: lisa(name, dtype, **common, activations="store", **settings),
              "rate": lambda: rate_of(found_products)}
    for peer in peers:
        makers[f"PyTorch {peer}"] = lambda peer=peer: torch(name, peer, **common)
    with bench.workers(makers) as (found, missing):
        times = bench.interleave(found)
        work = flops.useful(shape, batch, tokens, how)
        reports = {n: w.ask("report") for n, w in found.items() if n != "rate"}
        bench.results[title] = {"times": times, "flops": work, "reports": reports}
        bench.add(title, target, "; ".join(speed_text(times, work) + missing))


def speeds(bench):
    peers = ("tuned", "stock")
    speed(bench, "LISA, SmolLM2-135M, bf16 file, 2x512, stored", ">= 0.90 of the rate; >= 1.3x "
          "tuned PyTorch, >= 2x stock", "SmolLM2", 2, 512, "lisa", "bf16", peers)
    if not bench.quick:
        speed(bench, "the same against the newest PyTorch", "reported", "SmolLM2", 2, 512, "lisa",
              "bf16", ("new",))
    target = ">= 1.2x tuned PyTorch, or 0.90 of the rate"
    for batch, tokens in ((4, 256), (4, 64)):
        for method in ("lisa", "full", "lora"):
            if bench.quick and (tokens == 256 or method != "lisa"):
                continue
            speed(bench, f"{method}, GPT-2 124M, {batch}x{tokens}", target, "GPT-2", batch, tokens,
                  method)
    for method in () if bench.quick else ("full", "lora"):
        speed(bench, f"{method}, SmolLM2-135M, bf16 file, 2x512", target, "SmolLM2", 2, 512,
              method, "bf16")


def methods(bench):
    """The library against itself: methods, masked labels, dtypes."""
    common = {"batch": 2, "tokens": 512, "activations": "store"}
    if bench.quick:
        common["tokens"] = 256
    tokens = common["tokens"]
    makers = {
        "lisa": lambda: lisa("SmolLM2", "bf16", method="lisa", **common),
        "full": lambda: lisa("SmolLM2", "bf16", method="full", **common),
        "lora": lambda: lisa("SmolLM2", "bf16", method="lora", **common),
        "masked": lambda: lisa("SmolLM2", "bf16", method="lisa", masked=tokens // 2, **common),
        "f32": lambda: lisa("SmolLM2", "f32", method="lisa", **common),
    }
    shape = flops.Shape.of(SMOLLM2)
    work = {m: flops.useful(shape, 2, tokens, flops.Method(m)) for m in ("lisa", "full", "lora")}
    with bench.workers(makers) as (found, _):
        times = bench.interleave(found)
        peaks = {n: w.ask("report")["peak"] for n, w in found.items()}
    bench.results["methods"] = {"times": times, "peaks": peaks}
    took, ideal = ratio(times["lisa"], times["full"]), work["lisa"] / work["full"]
    bench.add(f"LISA against full AdamW, SmolLM2, 2x{tokens}", "step time within 5 % of the FLOP "
              "ratio", f"time {took:.3f}, FLOPs {ideal:.3f}: {100 * (took / ideal - 1):+.1f} %")
    sides = [f"{m} {statistics.median(times[m]):.2f} s, {peaks[m] / GIB:.2f} GiB"
             for m in ("lisa", "lora")]
    bench.add(f"LISA against LoRA r=16, SmolLM2, 2x{tokens}", "side by side", "; ".join(sides))
    bench.add("bf16-stored against f32-stored weights", "<= 7 % slower",
              f"{100 * (ratio(times['lisa'], times['f32']) - 1):+.1f} %")
    gain = ratio(times["masked"], times["lisa"])
    expected = flops.useful(shape, 2, tokens, flops.Method("lisa"), tokens // 2) / work["lisa"]
    bench.add("half of the labels -100", "their logits are not computed",
              f"step time {gain:.3f} of the unmasked (FLOPs {expected:.3f})")


def peak_row(bench, title, target, visit=True, **settings):
    with bench.workers({"liblisa": lambda: lisa("SmolLM2", "bf16", batch=2, tokens=512,
                                               **settings)}) as (found, _):
        worker = found["liblisa"]
        worker.ask("step")
        if visit:
            worker.ask("visit")
            worker.ask("step")
        report = worker.ask("report")
    bench.results[title] = report
    bench.add(title, target, f"{report['peak'] / GIB:.3f} GiB peak RSS, mapped weights included "
              f"(anonymous {report['anon'] / MIB:.0f} MiB, planned {report['plan'] / MIB:.0f} MiB)")


def torch_memory(bench, method, checkpoint):
    """Peak RSS with the stock allocator, import apart."""
    title = f"PyTorch {method}, SmolLM2, 2x512, checkpointing {'on' if checkpoint else 'off'}"
    makers = {peer: lambda peer=peer: torch("SmolLM2", peer, method=method, batch=2, tokens=512,
                                            checkpoint=checkpoint) for peer in ("stock",)}
    with bench.workers(makers) as (found, missing):
        for worker in found.values():
            worker.ask("step")
            report = worker.ask("report")
            missing.append(f"{report['peak'] / GIB:.2f} GiB peak RSS, "
                           f"{report['imports'] / MIB:.0f} MiB of it imports")
        bench.add(title, "peer's memory", "; ".join(missing))


def memory(bench):
    recompute = {"method": "lisa", "activations": "recompute"}
    peak_row(bench, "LISA, SmolLM2, 2x512, memory mode", "<= 1.0 GiB", **recompute)
    peak_row(bench, "the same, stored", "<= 1.75 GiB", method="lisa", activations="store")
    peak_row(bench, "memory mode, update inside backward, 8-bit moments", "<= 0.75 GiB",
             in_backward=1, moments="8bit", **recompute)
    peak_row(bench, "LoRA r=16, SmolLM2, 2x512, memory mode", "beside LISA", visit=False,
             method="lora", activations="recompute")
    for method in ("lisa", "lora"):
        for checkpoint in (0, 1):
            if not bench.quick or (method == "lisa" and not checkpoint):
                torch_memory(bench, method, checkpoint)


def memory_mode_speed(bench):
    if bench.quick:
        bench.add("memory mode: speed", "no slower than tuned PyTorch's LISA",
                  "left out of the quick run")
        return
    common = {"method": "lisa", "batch": 2, "tokens": 512}
    makers = {"liblisa": lambda: lisa("SmolLM2", "bf16", activations="recompute", **common),
              "tuned": lambda: torch("SmolLM2", "tuned", **common)}
    with bench.workers(makers) as (found, missing):
        times = bench.interleave(found)
    if "tuned" in times:
        missing.append(f"{ratio(times['tuned'], times['liblisa']):.2f}x tuned PyTorch")
    bench.add("LISA, SmolLM2, 2x512, memory mode: speed", "no slower than tuned PyTorch's LISA",
              f"{statistics.median(times['liblisa']):.2f} s; " + "; ".join(missing))


def update(bench):
    """AdamW against a copy of as many bytes by the same threads."""
    n = 49152 * 576
    worker = Worker([PROGRAMS / "rate", THREADS])
    shares, speeds_found = {}, {}
    try:
        for _ in range(bench.rounds):
            copied = worker.ask(f"copy {4 * n}")
            bandwidth = 2 * copied["bytes"] / copied["seconds"]
            for dtype in ("bf16", "f32"):
                for kind, name in ((1, "f32"), (2, "bf16"), (3, "8-bit")):
                    answer = worker.ask(f"adamw {dtype} {kind} {n}")
                    reached = answer["bytes"] / answer["seconds"]
                    shares.setdefault((dtype, name), []).append(reached / bandwidth)
                    speeds_found[dtype, name] = reached / 1e9
    finally:
        worker.close()
    texts = [f"{dtype} weights, {name} moments {statistics.median(share):.2f} "
             f"({speeds_found[dtype, name]:.0f} GB/s)" for (dtype, name), share in shares.items()]
    bench.add("AdamW on active parameters, of the copy bandwidth",
              ">= 0.8", f"copy {bandwidth / 1e9:.0f} GB/s; " + "; ".join(texts))


def swap(bench):
    makers = {"liblisa": lambda: lisa("SmolLM2", "bf16", method="lisa", batch=2, tokens=512,
                                      activations="store")}
    rate = Worker([PROGRAMS / "rate", THREADS])
    with bench.workers(makers) as (found, _):
        worker = found["liblisa"]
        step = min(worker.ask("step")["seconds"] for _ in range(2))
        worker.ask("visit")
        slots = worker.ask("report")["slots"]
        pairs = [(worker.ask("swap")["seconds"], rate.ask(f"copy {slots}")["seconds"])
                 for _ in range(7)]
    rate.close()
    took = statistics.median(a for a, _ in pairs)
    bench.add("a swap of active layers", "<= 2x a copy of the slots' bytes; <= 0.2 % of 20 steps",
              f"{1e3 * took:.1f} ms, {statistics.median(a / b for a, b in pairs):.2f}x a copy of "
              f"{slots / MIB:.0f} MiB; {100 * took / (20 * step):.3f} % of 20 steps")


def seven(bench):
    """A LLaMA-2-7B shape that someone has made: LISA_BENCH_7B."""
    title = "LLaMA-2-7B shape, bf16, sharded, gamma 2, 1x256"
    target = "completes; RssAnon + RssShmem within 3 % of the plan, <= 8 GiB"
    directory = os.environ.get("LISA_BENCH_7B")
    if not directory:
        return bench.add(title, target, "not run: LISA_BENCH_7B names no model directory")
    scratch = os.environ.get("LISA_BENCH_SCRATCH", directory)
    done = subprocess.run([PROGRAMS / "seven_b", directory, scratch, "steps=4", "rows=2048",
                           "turns=1"], text=True, check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise RuntimeError(f"seven_b: {done.stderr.strip()}")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [line for line in said if line["what"] == "step"]
    held = next(line for line in said if line["what"] == "memory")
    shape = flops.Shape.of(json.loads((pathlib.Path(directory) / "config.json").read_text()))
    how = flops.Method("lisa")
    worker = rate_of(flops.products(shape, 256, how, scored=255))
    answer = worker.ask("run")
    worker.close()
    seconds = statistics.median(step["seconds"] for step in steps[1:])
    share = flops.useful(shape, 1, 256, how) / seconds / (answer["flops"] / answer["seconds"])
    faults = statistics.median(step["major_faults"] for step in steps[1:])
    return bench.add(title, target, f"{seconds:.0f} s, useful FLOPs {share:.2f} of the rate "
                     f"(a layer's forward is made twice); {held['resident'] / GIB:.2f} GiB, "
                     f"{100 * held['off']:+.2f} % off the plan, grown by {held['growth']:.0f} "
                     f"bytes; {faults:.0f} major faults a step")


def growing(bench):
    if bench.quick:
        return bench.add("growth", "a table and a plot", "left out of the quick run")
    points = growth.measure(SMOLLM2, directory_of, lambda **settings: Worker(
        [PROGRAMS / "workload", *words(settings)]), 3)
    (OUT / "growth.json").write_text(json.dumps(points))
    (OUT / "growth.svg").write_text(growth.plot(points))
    bench.growth = growth.table(points) + "\n\n![against tokens](growth.svg)"
    return bench.add("growth of memory with tokens, memory mode", "no more than the layer inputs",
                     growth.verdict(points))


ROWS = {"memory": memory, "update": update, "swap": swap, "speeds": speeds, "methods": methods,
        "memory_mode_speed": memory_mode_speed, "seven": seven, "growth": growing}


def machine():
    """The head of the table: where and when, and who else was there."""
    cpu = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            cpu = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    profile = subprocess.run([PROGRAMS / "bench_cpu", str(THREADS)], text=True, check=False,
                             stdout=subprocess.PIPE).stdout
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    head = (f"{cpu}, {os.cpu_count()} processors, {THREADS} threads, load {load}; "
            f"{time.strftime('%Y-%m-%d', time.gmtime())}, Linux {platform.release()}; "
            f"{profile.splitlines()[0] if profile else 'no profile'}.")
    return head, profile


def render(rows):
    return "\n".join(["| work | to reach | reached |", "|---|---|---|",
                      *("| " + " | ".join(row) + " |" for row in rows)])


def written(text, tables):
    """The text with the tables between its marks."""
    begin, end = (text.index(mark) for mark in MARKS)
    return text[:begin + len(MARKS[0])] + "\n" + tables + "\n" + text[end:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", default=os.environ.get("BENCH") == "quick")
    parser.add_argument("--only", choices=ROWS, action="append")
    parser.add_argument("--write", type=pathlib.Path)
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "workers.log").write_text("")
    head, profile = machine()
    print(head, "\n", flush=True)
    bench = Bench(arguments.quick)
    bench.growth = ""
    for name in arguments.only or ROWS:
        if bench.late():
            bench.add(name, "", "left out: the time of the run was up")
            continue
        try:
            ROWS[name](bench)
        except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            bench.add(name, "", f"failed: {error}")
    text = "\n\n".join(part for part in (head, render(bench.rows), bench.growth,
                                         "```\n" + profile.strip() + "\n```") if part)
    (OUT / "bench.md").write_text(text + "\n")
    (OUT / "bench.json").write_text(json.dumps(bench.results, indent=1))
    if arguments.write:
        arguments.write.write_text(written(arguments.write.read_text(), text))
        if bench.growth:
            (arguments.write.parent / "growth.svg").write_text((OUT / "growth.svg").read_text())
    print("\nwritten to build/bench/bench.md", file=sys.stderr)


if __name__ == "__main__":
    main()
