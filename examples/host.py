#!/usr/bin/env python3
"""A Python host that drives LISA: trains a language model on a task it has to find out by itself.

Without arguments the model is a tiny one made on the spot; give a Hugging Face directory to train
that one. The task needs no tokenizer: rows of token ids that count up in steps of 1, 2 or 3.

    PYTHONPATH=bindings/python python3 examples/host.py [DIRECTORY] [--save DIRECTORY]
"""

import argparse
import random

import liblisa


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", help="a Hugging Face model directory")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--lr", type=float, help="default: 1e-2, or 1e-4 for a directory")
    parser.add_argument("--n-active", type=int, default=2, help="layers that train at a time")
    parser.add_argument("--interval", type=int, default=5, help="steps between two draws of layers")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--save", metavar="DIRECTORY", help="write the trained model there")
    return parser.parse_args()


def get_model(context, directory):
    if directory:
        return liblisa.Model.open(context, directory)
    config = liblisa.ModelConfig(
        n_layers=4, d_model=64, n_heads=4, d_ff=128, vocab_size=64, max_positions=64
    )
    return liblisa.Model.create(context, config, seed=1)


def counting_rows(draw, n_ids, n_rows=4, n_tokens=32):
    starts = [(draw.randrange(n_ids), draw.randint(1, 3)) for _ in range(n_rows)]
    return [[(start + step * i) % n_ids for i in range(n_tokens)] for start, step in starts]


def main():
    arguments = read_arguments()
    draw = random.Random(0)
    lr = arguments.lr or (1e-4 if arguments.directory else 1e-2)

    with liblisa.Context(arguments.backend) as context:
        model = get_model(context, arguments.directory)
        n_ids = min(64, model.config.vocab_size)
        n_active = min(arguments.n_active, model.config.n_layers)
        sampler = liblisa.Sampler(
            model.config.n_layers, n_active=n_active, interval_steps=arguments.interval
        )
        batch = liblisa.Batch(model, 4, 32)
        optimizer = liblisa.Optimizer(model, max_active_layers=n_active, max_grad_norm=1.0)
        for step in range(arguments.steps):
            batch.set(counting_rows(draw, n_ids))
            optimizer.set_lr(lr * (1 - step / arguments.steps))
            stats = liblisa.train_step(model, sampler, optimizer, batch, step)
            if step % 10 == 0 or step == arguments.steps - 1:
                print(f"step {step:4}  loss {stats.loss:.4f}  layers {optimizer.active_layers}")
        print("5 7 9 11 ->", *model.generate([5, 7, 9, 11], max_new_tokens=8))

        if arguments.save:
            model.save(arguments.save)


if __name__ == "__main__":
    main()
