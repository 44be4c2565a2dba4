"""PyTorch in training, led through standard input as workload.c is; it takes the same settings.

    peer_torch.py config=DIR method=lisa|full|lora batch=B tokens=T gamma=N rank=R threads=N
                  checkpoint=0|1 device=cpu|cuda dtype=f32|bf16

Random weights, AdamW made anew for what trains, no dropout. LISA trains the layers that
workload.c does, with embedding and head. Says the memory of its imports when it starts.
"""

import contextlib
import json
import resource
import sys
import time


def peak():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024


def settings_of(arguments):
    settings = {"method": "lisa", "batch": 1, "tokens": 64, "gamma": 2, "rank": 16, "threads": 2,
                "checkpoint": 0, "device": "cpu", "dtype": "f32"}
    for argument in arguments:
        key, _, value = argument.partition("=")
        settings[key] = int(value) if value.isdigit() else value
    return settings


def layers_of(model):
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def freeze(model, settings):
    """What LISA trains: `gamma` layers, spread as workload.c spreads them, embedding and head."""
    layers = layers_of(model)
    n, gamma = len(layers), settings["gamma"]
    active = {(n // 4 + i * n // gamma) % n for i in range(gamma)}
    for i, layer in enumerate(layers):
        layer.requires_grad_(i in active)


def adapted(model, settings):
    import peft
    targets = (["c_attn", "c_proj", "c_fc"] if hasattr(model, "transformer") else
               ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    return peft.get_peft_model(model, peft.LoraConfig(
        r=settings["rank"], lora_alpha=16, lora_dropout=0.0, target_modules=targets,
        fan_in_fan_out=hasattr(model, "transformer"), task_type="CAUSAL_LM"))


def make(torch, transformers, settings):
    config = transformers.AutoConfig.from_pretrained(settings["config"])
    config.use_cache = False
    for key in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        if hasattr(config, key):
            setattr(config, key, 0.0)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[settings["dtype"]]
    if hasattr(config, "torch_dtype"):
        config.torch_dtype = dtype
    # Older ones know no device to make a model on; the processor is none that they need to know.
    on_device = settings["device"] != "cpu"
    with torch.device(settings["device"]) if on_device else contextlib.nullcontext():
        model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    if settings["method"] == "lisa":
        freeze(model, settings)
    if settings["method"] == "lora":
        model = adapted(model, settings)
    if settings["checkpoint"]:
        model.gradient_checkpointing_enable()
        if settings["method"] == "lora":
            model.enable_input_require_grads()
    model.train()
    return model, config


class Run:
    def __init__(self, settings):
        import torch
        import transformers
        torch.set_num_threads(settings["threads"])
        torch.manual_seed(1)
        self.imports = peak()
        self.versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        self.model, config = make(torch, transformers, settings)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.trained = sum(p.numel() for p in trained)
        self.cuda = torch.cuda if settings["device"] == "cuda" else None
        fused = {"fused": True} if self.cuda else {}
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0, **fused)
        self.tokens = torch.randint(config.vocab_size, (settings["batch"], settings["tokens"]))
        self.tokens = self.tokens.to(settings["device"])

    def step(self):
        before = resource.getrusage(resource.RUSAGE_SELF)
        marks = [time.monotonic()]
        loss = self.model(input_ids=self.tokens, labels=self.tokens).loss
        marks.append(time.monotonic())
        loss.backward()
        marks.append(time.monotonic())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        marks.append(time.monotonic())
        after = resource.getrusage(resource.RUSAGE_SELF)
        parts = dict(zip(("forward", "backward", "update"),
                         (b - a for a, b in zip(marks, marks[1:]))))
        return {"seconds": marks[-1] - marks[0], **parts,
                "minor": after.ru_minflt - before.ru_minflt}

    def steps(self, count):
        """A device is waited for behind the last of them."""
        begin = time.monotonic()
        for _ in range(int(count)):
            self.step()
        if self.cuda:
            self.cuda.synchronize()
        return {"seconds": (time.monotonic() - begin) / int(count)}

    def report(self):
        held = self.cuda.max_memory_allocated() if self.cuda else 0
        return {"peak": peak(), "imports": self.imports, "trained": self.trained,
                "versions": self.versions, "held": held}


def main():
    run = Run(settings_of(sys.argv[1:]))
    words = {"step": run.step, "steps": run.steps, "report": run.report}
    for line in sys.stdin:
        word, *arguments = line.split()
        print(json.dumps(words[word](*arguments)), flush=True)


if __name__ == "__main__":
    main()
