#!/usr/bin/env python3
"""Norms of a model's layers while it is trained by full AdamW, LoRA and LISA.

This is the picture that LISA began with (arXiv 2403.17919, figure 2): for every layer l the mean
over the steps t of ||theta_t^(l)||, the Euclidean norm of its weights after an update. Without
arguments the model is a tiny one, made on the spot and taught to count; all methods then teach it
to count in larger steps. Give a Hugging Face directory to train that one.

Of LoRA there are three norms: "adapters" is of what it trains, A and B of a layer together; "base"
of the frozen weights beneath; "merged" of the weights with the adapters added, at the end.

Every update is a line of norms.jsonl, and every mean a line behind them. With matplotlib there is
norms.png too.

    PYTHONPATH=bindings/python python3 examples/norms.py [DIRECTORY] [--output DIRECTORY]
"""

import argparse
import array
import json
import random
import sys
from pathlib import Path

import liblisa

LESSONS = 60  # steps that teach the tiny model to count


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", help="a Hugging Face model directory")
    parser.add_argument("--output", metavar="DIRECTORY", type=Path, default=Path("."))
    parser.add_argument("--tokens", metavar="FILE", help="token ids as int32 of this machine; "
                        "default: rows of numbers that count")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4, help="rows")
    parser.add_argument("--length", type=int, default=32, help="tokens of a row")
    parser.add_argument("--lr", type=float, help="default: 2e-3, or 1e-5 for a directory")
    parser.add_argument("--lora-lr", type=float, help="default: 1e-2, or 1e-4 for a directory")
    parser.add_argument("--rank", type=int, default=8, help="of LoRA, on every map of the layers")
    parser.add_argument("--n-active", type=int, default=2, help="LISA's layers at a time")
    parser.add_argument("--interval", type=int, default=5, help="steps between two draws of layers")
    return parser.parse_args()


def get_model(context, arguments):
    if arguments.directory:
        return liblisa.Model.open(context, arguments.directory)
    config = liblisa.ModelConfig(
        n_layers=8, d_model=64, n_heads=4, d_ff=128, vocab_size=64, max_positions=arguments.length
    )
    model = liblisa.Model.create(context, config, seed=1)
    draw = random.Random(1)
    with liblisa.Batch(model, arguments.batch, arguments.length) as batch, liblisa.Optimizer(
        model, lr=5e-3, max_grad_norm=1.0
    ) as optimizer:
        for step in range(LESSONS):
            batch.set(counting_rows(draw, config.vocab_size, [1], arguments))
            liblisa.train_step(model, None, optimizer, batch, step)
    return model


def counting_rows(draw, n_ids, by, arguments):
    starts = [(draw.randrange(n_ids), draw.choice(by)) for _ in range(arguments.batch)]
    return [[(start + step * i) % n_ids for i in range(arguments.length)] for start, step in starts]


def rows_of_file(path, arguments):
    """Every row begins where the last one ended, and the file begins anew at its end."""
    ids = array.array("i")
    data = Path(path).read_bytes()
    ids.frombytes(data[: len(data) // ids.itemsize * ids.itemsize])
    if len(ids) < arguments.length:
        raise SystemExit(f"{path}: {len(ids)} tokens, expected {arguments.length} at least")
    place = 0
    while True:
        rows = []
        for _ in range(arguments.batch):
            if place + arguments.length > len(ids):
                place = 0
            rows.append(ids[place : place + arguments.length].tolist())
            place += arguments.length
        yield rows


def batches(model, arguments):
    """The same ones for every method."""
    if arguments.tokens:
        yield from rows_of_file(arguments.tokens, arguments)
    draw = random.Random(0)
    while True:
        yield counting_rows(draw, min(64, model.config.vocab_size), [2, 3], arguments)


def norms(holder, model):
    """Norms of all groups: the embedding, the layers, and final norm with head."""
    return [holder.weight_norm(group) for group in range(model.config.n_layers + 2)]


def train(method, model, arguments, sampler=None, adapter=None, **options):
    """Trains and yields a record per update."""
    data = batches(model, arguments)
    with liblisa.Batch(model, arguments.batch, arguments.length) as batch, liblisa.Optimizer(
        model, max_grad_norm=1.0, **options
    ) as optimizer:
        for step in range(arguments.steps):
            batch.set(next(data))
            stats = liblisa.train_step(model, sampler, optimizer, batch, step)
            record = {"method": method, "step": step + 1, "loss": stats.loss}
            record["mask"] = list(optimizer.mask)
            record["base" if adapter else "weights"] = norms(model, model)
            if adapter:
                record["adapters"] = norms(adapter, model)
            yield record


def full(model, arguments):
    yield from train("full", model, arguments, lr=arguments.lr)


def lora(model, arguments):
    adapter = liblisa.Adapter.create(model, rank=arguments.rank, alpha=2 * arguments.rank,
                                     targets="all-linear")
    adapter.attach()
    yield from train("LoRA", model, arguments, adapter=adapter, lr=arguments.lora_lr)
    adapter.merge()
    yield {"method": "LoRA", "at_end": "merged", "norms": norms(model, model)}


def lisa(model, arguments):
    n_active = min(arguments.n_active, model.config.n_layers)
    sampler = liblisa.Sampler(
        model.config.n_layers, n_active=n_active, interval_steps=arguments.interval, seed=1
    )
    yield from train("LISA", model, arguments, sampler, lr=arguments.lr, max_active_layers=n_active)


def measure(arguments, file):
    """Runs all methods, each from the same weights, and returns the means by name."""
    means = {}
    for method in (full, lora, lisa):
        with liblisa.Context() as context, get_model(context, arguments) as model:
            records = list(method(model, arguments))
        for record in records:
            file.write(json.dumps(record) + "\n")
        steps = [record for record in records if "step" in record]
        first, last = steps[0], steps[-1]
        print(f"{first['method']}: loss {first['loss']:.4f} at first, {last['loss']:.4f} at last")
        for what in ("weights", "adapters", "base"):
            if what in first:
                rows = zip(*(record[what] for record in steps))
                means[first["method"], what] = [sum(row) / len(steps) for row in rows]
    for (method, what), values in means.items():
        file.write(json.dumps({"method": method, "mean": what, "norms": values}) + "\n")
    return means


def show(means, names):
    print("mean norm".ljust(10), *(f"{method} {what}".rjust(14) for method, what in means))
    for group, name in enumerate(names):
        print(name.ljust(10), *(f"{values[group]:14.4f}" for values in means.values()))


def draw_figure(means, names, path):
    """A line per method on a scale of logarithms; a group without adapters has no point."""
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: no picture", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for (method, what), values in means.items():
        axis.plot(names, [value or None for value in values], marker="o", label=f"{method}, {what}",
                  linestyle="--" if what == "base" else "-")
    axis.set(yscale="log", xlabel="layer", ylabel="mean weight norm over training")
    axis.tick_params(axis="x", rotation=60)
    axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(f"drawn: {path}")


def main():
    arguments = read_arguments()
    arguments.lr = arguments.lr or (1e-5 if arguments.directory else 2e-3)
    arguments.lora_lr = arguments.lora_lr or (1e-4 if arguments.directory else 1e-2)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with open(arguments.output / "norms.jsonl", "w", encoding="utf-8") as file:
        means = measure(arguments, file)
    names = ["embedding", *(str(i) for i in range(len(means["full", "weights"]) - 2)), "head"]
    show(means, names)
    draw_figure(means, names, arguments.output / "norms.png")


if __name__ == "__main__":
    main()
