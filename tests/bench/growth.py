"""How time and memory grow with tokens, layers, width and threads: measured, a table, a plot."""

import statistics

MIB = 2.0**20
TOKENS = 64, 256, 1024, 4096
LAYERS = 6, 12, 30
WIDTHS = 288, 576, 1152
COLOURS = {1: "#4477aa", 2: "#cc6677"}


def scaled(config, layers=None, width=None):
    """The model with another depth, or another width with heads of the same size."""
    config = dict(config)
    if layers:
        config["num_hidden_layers"] = layers
    if width:
        factor = width / config["hidden_size"]
        config["hidden_size"] = width
        config["intermediate_size"] = int(config["intermediate_size"] * factor)
        config["head_dim"] = 64
        config["num_attention_heads"] = max(1, round(width / 64))
        config["num_key_value_heads"] = 1
    return config


def cases(config):
    for threads in (1, 2):
        for tokens in TOKENS:
            yield "tokens", tokens, tokens, threads, config
    for layers in LAYERS:
        yield "layers", layers, 512, 2, scaled(config, layers=layers)
    for width in WIDTHS:
        yield "width", width, 512, 2, scaled(config, width=width)


def measure(config, directory_of, start, rounds):
    points = []
    for number, (what, value, tokens, threads, model) in enumerate(cases(config)):
        worker = start(config=directory_of(f"growth-{number}", model), dtype="bf16",
                       method="lisa", batch=1, tokens=tokens, threads=threads,
                       activations="recompute")
        try:
            worker.ask("step")
            seconds = statistics.median(worker.ask("step")["seconds"] for _ in range(rounds))
            report = worker.ask("report")
        finally:
            worker.close()
        points.append({"what": what, "value": value, "tokens": tokens, "threads": threads,
                       "layers": model["num_hidden_layers"], "width": model["hidden_size"],
                       "rate": tokens / seconds, "peak": report["peak"], "plan": report["plan"],
                       "activations": report["activations"]})
    return points


def table(points):
    lines = ["| grows | to | threads | tokens | tokens/s | peak RSS, MiB | plan, MiB |",
             "|---|---|---|---|---|---|---|"]
    lines += [f"| {p['what']} | {p['value']} | {p['threads']} | {p['tokens']} | {p['rate']:.0f} | "
              f"{p['peak'] / MIB:.0f} | {p['plan'] / MIB:.0f} |" for p in points]
    return "\n".join(lines)


def verdict(points):
    """Bytes a token that are saved for backward, against the inputs of layers and head as floats."""
    ours = [p for p in points if p["what"] == "tokens" and p["threads"] == 2]
    first, last = ours[0], ours[-1]
    tokens = last["tokens"] - first["tokens"]
    inputs = 4 * (last["layers"] + 1) * last["width"]
    saved = (last["activations"] - first["activations"]) / tokens
    peak = (last["peak"] - first["peak"]) / tokens
    return (f"saved {saved:.0f} bytes a token, inputs of layers and head {inputs}: {saved / inputs:.2f}x; "
            f"peak RSS grows by {peak:.0f} bytes a token")


def axis(points, key):
    top = max(p[key] for p in points)
    return lambda p: 230 - 190 * p[key] / top, top


def panel(points, key, left, title):
    """Tokens from left to right by powers of four; a line for each number of threads."""
    height, top = axis(points, key)
    place = {tokens: left + 100 * i for i, tokens in enumerate(TOKENS)}
    yield f'<text x="{left}" y="24">{title}, at most {top:.0f}</text>'
    yield f'<path d="M{left} 40V230H{left + 320}" fill="none" stroke="#888"/>'
    for tokens, x in place.items():
        yield f'<text x="{x}" y="248">{tokens}</text>'
    for threads, colour in COLOURS.items():
        line = [p for p in points if p["threads"] == threads]
        path = " ".join(f"{place[p['tokens']]},{height(p):.1f}" for p in line)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'


def plot(points):
    """An SVG: tokens/s and MiB against the tokens of a step, one and two threads."""
    tokens = [{**p, "peak": p["peak"] / MIB} for p in points if p["what"] == "tokens"]
    lines = ['<svg xmlns="http://www.w3.org/2000/svg" width="760" height="285" '
             'font-family="sans-serif" font-size="13">',
             '<rect width="760" height="285" fill="#fff"/>',
             *panel(tokens, "rate", 30, "tokens/s"), *panel(tokens, "peak", 410, "peak RSS, MiB")]
    for i, (threads, colour) in enumerate(COLOURS.items()):
        lines.append(f'<text x="{30 + 100 * i}" y="275" fill="{colour}">{threads} threads</text>')
    return "\n".join([*lines, "</svg>", ""])
