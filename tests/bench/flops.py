"""What a training step must multiply: the one place where the benchmark counts.

A product of [m, k] with [k, n] is 2 m n k. For a linear map [out, in] and `t` tokens, the forward
pass is (t, out, in), the gradient of its input (t, in, out) and that of its weight (out, in, t);
the last is counted where the weight trains alone. LISA trains embedding and head, so the gradient
of the input goes through every layer; the first layer's too, for the embedding is below it. LoRA
adds maps of rank r beside every linear map of the layers, which train. Recomputation is counted
nowhere. Attention is counted once over what a causal mask leaves: (T + 1) / 2 keys a query, two
products forward and four backward. Norms, activations, the loss and the update are not products.
"""

import collections
import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """The part of a config.json that decides the products."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocabulary: int
    fused: bool  # GPT-2: q, k and v are one map and the MLP has no gate

    @classmethod
    def of(cls, config):
        if config["model_type"] == "gpt2":
            width, heads = config["n_embd"], config["n_head"]
            return cls(config["n_layer"], width, heads, heads, width // heads, 4 * width,
                       config["vocab_size"], True)
        heads = config["num_attention_heads"]
        return cls(config["num_hidden_layers"], config["hidden_size"], heads,
                   config.get("num_key_value_heads", heads),
                   config.get("head_dim") or config["hidden_size"] // heads,
                   config["intermediate_size"], config["vocab_size"], False)

    def maps(self):
        """(out, in) of a layer's linear maps."""
        own, shared = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if self.fused:
            return [(3 * own, self.width), (self.width, own), (self.hidden, self.width),
                    (self.width, self.hidden)]
        return [(own, self.width), (shared, self.width), (shared, self.width), (self.width, own),
                (self.hidden, self.width), (self.hidden, self.width), (self.width, self.hidden)]

    def layer_parameters(self):
        return sum(out * in_ for out, in_ in self.maps())


@dataclasses.dataclass(frozen=True)
class Method:
    """lisa: `active` layers and embedding and head; full: all; lora: adapters of `rank`."""

    name: str
    active: int = 2
    rank: int = 16


def add_map(products, tokens, out, in_, count, trained):
    products[tokens, out, in_, 0, 1] += count
    products[tokens, in_, out, 0, 0] += count
    if trained:
        products[out, in_, tokens, 1, 0] += trained


def products(shape, tokens, method, head_rows=0, scored=None):
    """{(m, n, k, trans_a, trans_b): how often}. `scored` of the tokens have a label."""
    found = collections.Counter()
    active = {"lisa": min(method.active, shape.layers), "full": shape.layers, "lora": 0}
    for out, in_ in shape.maps():
        add_map(found, tokens, out, in_, shape.layers, active[method.name])
        if method.name == "lora":
            add_map(found, tokens, method.rank, in_, shape.layers, shape.layers)
            add_map(found, tokens, out, method.rank, shape.layers, shape.layers)
    rows = tokens if scored is None else scored
    chunk = min(head_rows or rows, rows)
    for first in range(0, rows, chunk or 1):
        add_map(found, min(chunk, rows - first), shape.vocabulary, shape.width, 1,
                int(method.name != "lora"))
    return found


def attention(shape, batch, tokens):
    forward = 2 * 2 * shape.heads * shape.head_dim * batch * tokens * (tokens + 1) / 2
    return 3 * shape.layers * forward


def of_products(found):
    return sum(2 * m * n * k * count for (m, n, k, _, _), count in found.items())


def useful(shape, batch, tokens, method, masked=0):
    """FLOPs of a step; `masked` labels of each sequence are not trained on. Label t scores what
    token t - 1 foretells, so the first of a sequence is never one of the scored."""
    scored = batch * (tokens - max(masked, 1))
    found = products(shape, batch * tokens, method, scored=scored)
    return of_products(found) + attention(shape, batch, tokens)
