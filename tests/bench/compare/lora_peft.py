"""The same with PyTorch, transformers and PEFT: lora_peft.py MODEL DATA OUT STEPS"""

import json
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from watch import Watch

directory, data, out, n_steps = *sys.argv[1:4], int(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(directory)


def example(messages):
    """Tokens, and labels on the answer and the token that ends it."""
    prompt = tokenizer.apply_chat_template(
        messages[:-1], add_generation_prompt=True, tokenize=False
    )
    text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    n_prompt = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return tokens, [-100] * n_prompt + tokens[n_prompt:]


def collate(examples):
    """Padded on the right."""
    longest = max(len(tokens) for tokens, _ in examples)
    missing = [longest - len(tokens) for tokens, _ in examples]
    return {
        "input_ids": torch.tensor([t + [0] * n for (t, _), n in zip(examples, missing)]),
        "labels": torch.tensor([l + [-100] * n for (_, l), n in zip(examples, missing)]),
        "attention_mask": torch.tensor([[1] * (longest - n) + [0] * n for n in missing]),
    }


with open(data, encoding="utf-8") as file:
    examples = [example(json.loads(line)["messages"]) for line in file]
batches = [collate(examples[4 * step : 4 * step + 4]) for step in range(n_steps)]

torch.manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32)
config = LoraConfig(
    r=8,
    lora_alpha=16,
    lora_dropout=0.0,
    target_modules="q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split(),
    task_type="CAUSAL_LM",
)
model = get_peft_model(model, config)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
model.train()

watch = Watch()
for b in batches:
    loss = model(**b).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    watch.step(loss.item())
model.save_pretrained(out)
watch.close()
