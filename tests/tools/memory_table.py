"""The plan's memory of the paper's six models, as docs/memory.md shows it.

    memory_table.py            prints the tables
    memory_table.py --write F  replaces what F has between the marks

Nothing is loaded: config.json of each model is enough. GB are 1e9 bytes.
"""

import pathlib
import sys

import liblisa

TOP = pathlib.Path(__file__).resolve().parents[2]
MARKS = "<!-- memory_table -->", "<!-- end of memory_table -->"
TOKENS = 1024
NO_LAYERS = 0xFFFFFFFF
GB = 1e9

MODELS = {
    "gpt2": "GPT-2",
    "tinyllama-1.1b": "TinyLlama",
    "phi-2": "Phi-2",
    "mistral-7b": "Mistral-7B",
    "llama-2-7b": "LLaMA-2-7B",
    "llama-2-70b": "LLaMA-2-70B",
}

# Table 1 of arXiv 2403.17919v1: peak memory in GB; the 70B row is per device of two. None: "OOM".
PAPER = {
    "full": ("3.8", "13", "28", "59", "59", "OOM"),
    "LoRA r 128": ("3.3", "7.9", "14.3", "23", "23", "79 x 2"),
    "LoRA r 256": ("3.5", "8.6", "15.5", "26", "26", "OOM"),
    "LISA E+H": ("3.3", "7.4", "13.5", "21", "21", "71 x 2"),
    "LISA E+H+2L": ("3.3", "8.0", "14.6", "23", "23", "75 x 2"),
    "LISA E+H+4L": ("3.4", "8.3", "15", "24", "24", "79 x 2"),
}


def lora(rank):
    return {"adapter": {"rank": rank, "targets": "all-linear"}}


METHODS = {
    "full": {},
    **{f"LoRA r {rank}": lora(rank) for rank in (8, 16, 128, 256)},
    "LISA E+H": {"max_active_layers": NO_LAYERS},
    "LISA E+H+2L": {"max_active_layers": 2},
    "LISA E+H+4L": {"max_active_layers": 4},
}


def config_of(name):
    config = liblisa.ModelConfig.read(TOP / "tests/data/configs" / name)
    config.weights_dtype = "bf16"
    return config


def plan(config, method, activations="store", moments="f32"):
    """The plan's report; the reference backend has no scratch of a BLAS in it."""
    optimizer = {key: value for key, value in method.items() if key != "adapter"}
    optimizer.update({f"moments_{part}": moments for part in ("embedding", "layers", "head")})
    return liblisa.plan(config, 1, TOKENS, context={"backend": "reference", "n_threads": 1},
                        batch={"activations": activations}, optimizer=optimizer,
                        adapter=method.get("adapter"))


def working(report):
    """What a step computes in."""
    return sum(report.bytes[name] for name in ("activations", "recompute", "logits", "workspace"))


def state(report):
    return sum(report.bytes[name] for name in ("gradients", "moments", "low bits"))


def adapter_weights(report):
    """In private memory, where a trained base's weights are too: those are counted once."""
    return report.bytes["private weights"]


def in_paper(config, method):
    """bf16 throughout and no masters: 2 bytes a weight, a gradient, m, v and an activation."""
    report = plan(config, method, moments="bf16")
    adapters = adapter_weights(report) / 2 if "adapter" in method else 0
    gradients = report.bytes["gradients"] / 2
    return (2 * report.n_parameters + adapters + gradients + report.bytes["moments"]
            + working(report) / 2)


def in_ours(config, method, activations):
    """As planned and held: f32 gradients, moments and activations, split masters."""
    report = plan(config, method, activations)
    adapters = adapter_weights(report) if "adapter" in method else 0
    return 2 * report.n_parameters + adapters + state(report) + working(report)


def crossing(config, measure):
    """The least rank at which LoRA on every linear map needs more than LISA E+H+2L."""
    lisa = measure(config, METHODS["LISA E+H+2L"])
    low, high = 0, 4096
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(config, lora(middle)) > lisa else (middle, high)
    return high


def table(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def gb(bytes_):
    return f"{bytes_ / GB:.3g}" if bytes_ < 1e11 else f"{bytes_ / GB:.0f}"


def paper_cell(config, name, column):
    theirs = PAPER[name][column] if name in PAPER else "-"
    return f"{gb(in_paper(config, METHODS[name]))} ({theirs})"


def our_cell(config, name):
    return " / ".join(gb(in_ours(config, METHODS[name], kind)) for kind in ("store", "recompute"))


def crossings(configs):
    measures = {
        "the paper's measurement": in_paper,
        "ours, stored": lambda config, method: in_ours(config, method, "store"),
    }
    for title, measure in measures.items():
        yield [title, *(str(crossing(config, measure)) for config in configs)]


def lines():
    configs = [config_of(name) for name in MODELS]
    head = ["GB", *MODELS.values()]
    yield "In the paper's measurement, and in parentheses its Table 1:"
    yield ""
    yield from table(head, ([name, *(paper_cell(c, name, i) for i, c in enumerate(configs))]
                            for name in METHODS))
    yield ""
    yield "In liblisa's, all activations stored / recomputed:"
    yield ""
    yield from table(head, ([name, *(our_cell(c, name) for c in configs)] for name in METHODS))
    yield ""
    yield "The least rank at which LoRA on every linear map takes more than LISA E+H+2L:"
    yield ""
    yield from table(["rank", *MODELS.values()], crossings(configs))


def written(text, tables):
    """The text with the tables between its marks."""
    begin, end = (text.index(mark) for mark in MARKS)
    return text[:begin + len(MARKS[0])] + "\n" + tables + "\n" + text[end:]


def main():
    tables = "\n".join(lines())
    if len(sys.argv) == 3 and sys.argv[1] == "--write":
        path = pathlib.Path(sys.argv[2])
        path.write_text(written(path.read_text(), tables))
    else:
        print(tables)


if __name__ == "__main__":
    main()
