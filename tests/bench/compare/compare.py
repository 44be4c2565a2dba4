#!/usr/bin/env python3
"""The same LoRA fine-tune with liblisa and with PyTorch, transformers and PEFT: writes the table of
docs/comparison.md.

    make wheel demo && python3 tests/bench/compare/compare.py [--keep]

Both are installed from PyPI into fresh environments in build/compare (several GB); --keep uses
those that are there. Where LISA_ORACLE_PYTHON names a Python (tests/slow/setup.sh), its PyTorch
runs too.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
HOME = ROOT / "build" / "compare"
PAGE = ROOT / "docs" / "comparison.md"
MODEL = ROOT / "build" / "demo" / "SmolLM2-135M-Instruct"
DATA = ROOT / "examples" / "data" / "train.jsonl"

# Name and version of every package but those that a new environment has, and their files' bytes.
LOOK = """
import importlib.metadata as metadata, json
held, size = {}, 0
for package in metadata.distributions():
    if package.name in ("pip", "setuptools"):
        continue
    held[package.name] = package.version
    paths = {path.locate() for path in package.files or ()}
    size += sum(path.stat().st_size for path in paths if path.is_file())
print(json.dumps([held, size]))
"""


class Peer:
    """A way to train: an interpreter with what it needs, and a script."""

    def __init__(self, label, python, script):
        self.label, self.python, self.script = label, python, HERE / script
        self.runs = []

    def run(self, n_steps, n_cpus):
        """Trains once in a process of its own, which may run on so many processors."""
        cpus = sorted(os.sched_getaffinity(0))[-n_cpus:]
        with tempfile.TemporaryDirectory() as out:
            command = [self.python, self.script, MODEL, DATA, Path(out, "adapter"), str(n_steps)]
            environment = {**os.environ, "BEGAN": str(time.time()), "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                check=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )
        self.runs.append(json.loads(done.stdout.decode().splitlines()[-1]))

    def median(self, key):
        return statistics.median(run[key] for run in self.runs)

    def of_steps(self, key):
        """The median step of each run; the first of a run is left out."""
        return [statistics.median(run[key][1:]) for run in self.runs]

    def lines(self):
        """Lines that somebody wrote: neither empty, nor words about it, nor the clock's."""
        text = re.sub(r'""".*?"""', "", self.script.read_text(), flags=re.S)
        lines = (line.split("#")[0].strip() for line in text.splitlines())
        return sum(bool(line) and "watch" not in line.lower() for line in lines)

    def installed(self):
        """{package: version} and bytes."""
        return json.loads(subprocess.check_output([self.python, "-c", LOOK]))


def environment(name, keep, *packages):
    """A fresh environment of a name with the packages; its Python."""
    home = HOME / name
    if not (keep and (home / "whole").exists()):
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        pip = [home / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, "--only-binary", ":all:", *packages], check=True)
        (home / "whole").touch()
    return home / "bin" / "python"


def peers(keep):
    wheels = list((ROOT / "build" / "wheel").glob("liblisa-*-linux_*.whl"))
    if not wheels or not MODEL.is_dir():
        sys.exit("make wheel demo makes what is compared")
    lisa = environment("liblisa", keep, f"{wheels[0]}[data]")
    torch = environment("peft", keep, "torch", "transformers", "peft")
    found = [
        Peer("liblisa", lisa, "lora_liblisa.py"),
        Peer("PyTorch from PyPI", torch, "lora_peft.py"),
    ]
    if os.environ.get("LISA_ORACLE_PYTHON"):
        oracle = os.environ["LISA_ORACLE_PYTHON"]
        found.append(Peer("PyTorch of Debian 12", oracle, "lora_peft.py"))
    return found


def row(name, cells):
    return f"| {name} | " + " | ".join(cells) + " |"


def versions(held):
    names = ("liblisa", "torch", "transformers", "peft", "tokenizers")
    return ", ".join(f"{name} {held[name]}" for name in names if name in held)


def spread(times):
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"


def table(found):
    """The table's lines."""
    held, sizes = zip(*(peer.installed() for peer in found))
    # Debian's own packages lie beside those of the environment: their size is not known.
    sizes = ["" if "Debian" in p.label else f"{s / 1e6:,.0f}" for p, s in zip(found, sizes)]
    counts = ["" if "Debian" in p.label else str(len(h)) for p, h in zip(found, held)]
    yield row("", [peer.label for peer in found])
    yield "|" + "---|" * (len(found) + 1)
    yield row("versions", [versions(packages) for packages in held])
    yield row("lines of the script", [str(peer.lines()) for peer in found])
    yield row("packages installed", counts)
    yield row("MB installed", sizes)
    yield row("seconds from start to the first step", [f"{p.median('start'):.1f}" for p in found])
    for name, key in (("seconds a step", "steps"), ("processor seconds a step", "busy")):
        yield row(f"{name}, median (least to most)", [spread(p.of_steps(key)) for p in found])
    yield row("peak RSS, MB", [f"{p.median('peak') / 1e6:,.0f}" for p in found])
    yield row("loss of the first step", [f"{p.runs[0]['losses'][0]:.4f}" for p in found])
    yield row("loss of the last step", [f"{p.runs[0]['losses'][-1]:.4f}" for p in found])


def processor():
    text = Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*: (.*)", text, re.M)
    return name.group(1) if name else platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="runs of each, in turn (5)")
    parser.add_argument("--steps", type=int, default=12, help="steps of a run (12)")
    parser.add_argument("--cpus", type=int, default=2, help="processors that a run may use (2)")
    parser.add_argument("--keep", action="store_true", help="use environments that are there")
    options = parser.parse_args()
    found, loads = peers(options.keep), []
    for number in range(options.pairs):
        for peer in found:
            peer.run(options.steps, options.cpus)
            loads.append(os.getloadavg()[0])
            print(number, peer.label, spread(peer.of_steps("steps")[-1:]), file=sys.stderr)
    lines = [
        f"{options.pairs} runs of each in turn, {options.steps} steps a run, on {options.cpus} of "
        f"{os.cpu_count()} threads of {processor()}; load average {min(loads):.1f} to {max(loads):.1f}.",
        "",
        *table(found),
    ]
    page = PAGE.read_text(encoding="utf-8")
    made = re.sub(
        r"(<!-- table -->\n).*?(<!-- end -->)",
        lambda match: match.group(1) + "\n".join(lines) + "\n" + match.group(2),
        page,
        flags=re.S,
    )
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
