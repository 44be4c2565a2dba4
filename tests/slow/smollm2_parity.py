"""SmolLM2's logits on a fixed prompt: liblisa against transformers.

    smollm2_parity.py DIRECTORY

The reference is transformers in float64. liblisa computes in float32, and may be at most four times
as far from the reference as transformers is in float32.
"""

import pathlib
import sys

import liblisa as lisa
import numpy as np
import torch
from oracle import error, lisa_logits, transformers_logits
from tokenizers import Tokenizer

PROMPT = (
    "<|im_start|>user\nWhich three numbers follow 2, 3, 5, 7, 11 in the list of primes?<|im_end|>\n"
    "<|im_start|>assistant\nThe next three primes are 13, 17 and 19.<|im_end|>\n"
)
ALLOWED = 4.0


def main():
    directory = pathlib.Path(sys.argv[1])
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokens = np.array([tokenizer.encode(PROMPT, add_special_tokens=False).ids], dtype=np.int64)
    exact = transformers_logits(directory, tokens, torch.float64)
    theirs = error(transformers_logits(directory, tokens, torch.float32), exact)
    failed = False
    print(f"{tokens.size} tokens; distance from transformers in float64, over the largest logit")
    print(f"  transformers in float32   {theirs:.3e}")
    for backend, load in (("cpu", "map"), ("cpu", "copy")):
        with lisa.Context(backend) as context, lisa.Model.open(context, directory, load=load) as model:
            ours = error(lisa_logits(lisa, model, tokens), exact)
        good = ours <= ALLOWED * theirs
        failed |= not good
        print(f"  liblisa, {backend}, {load:<4}        {ours:.3e}  {ours / theirs:.2f} times"
              f"{'' if good else f', allowed are {ALLOWED}'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
