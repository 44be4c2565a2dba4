"""Makes tests/data/adamw.safetensors: ten steps of torch.optim.AdamW on one vector.

    python tests/tools/make_adamw_fixture.py [tests/data]

Made with torch 1.13.1. Tensors: w0 [N], gradients [STEPS,N] and adam [4] = lr, beta1, beta2, eps; and
after STEPS steps, for T in f32, f64 and for decay 0 ("plain") and DECAY ("decay"): T.plain.w, .m, .v
and T.decay.w, .m, .v. w0 and the gradients are exact in float32. Gradients span 1e-9 to 1e3, a few
elements have none at all, and a few have one in a single step.
"""

import pathlib
import sys

import torch
from safetensors.numpy import save_file

N, STEPS = 203, 10
LR, BETAS, EPS, DECAY = 3e-3, (0.9, 0.999), 1e-8, 0.1


def inputs():
    torch.manual_seed(3)
    w0 = torch.randn(N)
    scale = 10.0 ** torch.linspace(-9, 3, N)
    gradients = torch.randn(STEPS, N) * scale
    gradients[:, ::29] = 0.0
    gradients[1:, 5::31] = 0.0
    return w0, gradients


def run(w0, gradients, dtype, decay):
    w = w0.to(dtype).clone().requires_grad_()
    optimizer = torch.optim.AdamW([w], lr=LR, betas=BETAS, eps=EPS, weight_decay=decay, foreach=False)
    for gradient in gradients:
        w.grad = gradient.to(dtype)
        optimizer.step()
    state = optimizer.state[w]
    return {"w": w.detach(), "m": state["exp_avg"], "v": state["exp_avg_sq"]}


def main():
    data = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data")
    w0, gradients = inputs()
    tensors = {"w0": w0, "gradients": gradients,
               "adam": torch.tensor([LR, *BETAS, EPS], dtype=torch.float64)}
    for dtype, name in ((torch.float32, "f32"), (torch.float64, "f64")):
        for decay, kind in ((0.0, "plain"), (DECAY, "decay")):
            for key, value in run(w0, gradients, dtype, decay).items():
                tensors[f"{name}.{kind}.{key}"] = value
    tensors["decay"] = torch.tensor([DECAY], dtype=torch.float64)
    save_file({name: value.numpy() for name, value in tensors.items()}, data / "adamw.safetensors")


if __name__ == "__main__":
    main()
