#!/usr/bin/env python3
"""Breaks the PTX of the backend's kernels in one place at a time and expects a test to see it.

    mutate.py [--random N] [--seed S] [--jobs J] [--only PATTERN] [--build DIRECTORY]

The test is the conformance suite on the host device with the interpreter preloaded, all found in
the build directory; a mutant is a copy of the directory of PTX with one instruction changed. It is
seen when a test fails that does not fail on the PTX as it is, be it by a wrong value or a report.
Without --random the mutants are those listed here, all of which must be seen; with it, N places
drawn from all kernels are broken, and what nobody saw is printed (a mutant may be another way to
write the same kernel). Ends with Check's closing line."""

import argparse
import concurrent.futures
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

# What runs a source's kernels.
CASES = {
    "activation": "block", "attention": "block", "attention_backward": "block",
    "attention_forward": "block", "attention_plain": "block", "columns": "linear",
    "elements": "update", "embed": "linear", "loss": "loss", "norm": "block", "rope": "block",
    "rows": "linear", "scale": "linear", "sums": "loss", "update": "update",
}


def case_of(source, kernel):
    return "dropout" if "dropout" in kernel else CASES[source]


# What is changed, and to what: name, pattern of a whole line, replacement.
DROP_BARRIER = ("a barrier is gone", r"\tbar\.sync .*;", "")
TRUNCATE = ("rounded towards zero", r"cvt\.rn\.bf16\.f32", "cvt.rz.bf16.f32")
TRUNCATE_PAIR = ("a pair rounded towards zero", r"cvt\.rn\.bf16x2\.f32", "cvt.rz.bf16x2.f32")
MAX_TO_MIN = ("max is min", r"\bmax\.f32", "min.f32")
ADD_TO_SUB = ("a sum is a difference", r"\badd(\.rn)?\.f32", "sub.f32")
MUL_TO_ADD = ("a product is a sum", r"\bmul(\.rn)?\.f32", "add.f32")
FMA_DOWN = ("fma rounded down", r"fma\.rn\.f32", "fma.rm.f32")
DIVIDE_DOWN = ("a quotient rounded down", r"div\.rn\.f32", "div.rm.f32")
TURNED = ("a comparison is turned around", r"setp\.(?:gt|lt)\.f32", "setp.eq.f32")
LESS_EQUAL = ("less is less or equal", r"setp\.lt\.(s32|u32|s64|u64)", r"setp.le.\1")
GREATER_EQUAL = ("greater is greater or equal", r"setp\.gt\.(s32|u32|s64|u64)", r"setp.ge.\1")
NEGATE = ("a branch is turned around", r"@%p(\d+) bra", r"@!%p\1 bra")
STRIDE = ("a stride is 4 more", r"(add\.s64 \s*%rd\d+, %rd\d+, \d+);", r"\1+4;")
SHUFFLE = ("a shuffle's other lane", r"(shfl\.sync\.(?:bfly|down)\.b32\s+\S+, \S+, )\S+,",
           r"\g<1>3,")
SCALE = ("log2 e is not quite", r"0f3FB8AA3B", "0f3FB00000")
WAIT = ("one group too few waited for", r"cp\.async\.wait_group 0", "cp.async.wait_group 1")
UNTRANSPOSE = ("a matrix is not transposed", r"\.x4\.trans\.shared", ".x4.shared")
SWAP_A = ("two fragments changed places",
          r"(mma\..*\{[^}]*\}, \{)(%r\d+), ?(%r\d+),", r"\1\3,\2,")
NO_STORE = ("a store is gone", r"\t(@%p\d+ )?st\.global.*;", "")
PHILOX = ("a multiplier of Philox", r"-766435501|3528531795", "-766435503")
OFFSET = ("a load from the next word", r"(ld\.(global|shared)[^\[]*\[%r\w*)\]", r"\1+4]")

# Source, kernel, change, which of the places.
LISTED = [
    ("activation", "backward", ADD_TO_SUB, 0), ("activation", "forward", MUL_TO_ADD, 0),
    ("activation", "forward.*bfloat16", TRUNCATE, 0),
    ("attention_forward", "bfloat16Li64", DROP_BARRIER, 0),
    ("attention_forward", "bfloat16Li64", MAX_TO_MIN, 0),
    ("attention_forward", "bfloat16Li64", SWAP_A, 0),
    ("attention_forward", "bfloat16Li128", UNTRANSPOSE, 0),
    ("attention_forward", "bfloat16Li128", WAIT, 0),
    ("attention_forward", "halfLi64", SCALE, 0),
    ("attention_backward", "key.*bfloat16Li64", SWAP_A, 3),
    ("attention_backward", "query.*bfloat16Li64", DROP_BARRIER, 1),
    ("attention_plain", "forwardIf|forward_plainIf", DROP_BARRIER, 0),
    ("columns", ".", ADD_TO_SUB, 0),
    ("elements", "convert.*If13|convert.*13__nv_bfloat16f", TRUNCATE, 0),
    ("elements", "dropout", PHILOX, 0), ("embed", ".", ADD_TO_SUB, 0),
    ("loss", "loss_kernel", TURNED, 0), ("loss", "loss_kernel", SHUFFLE, 0),
    ("loss", "loss_kernel", SCALE, 0),
    ("norm", "forward", DROP_BARRIER, 0), ("norm", "forward", SHUFFLE, 1),
    ("norm", "backward", STRIDE, 0), ("norm", "backward", ADD_TO_SUB, 2),
    ("rope", ".", ADD_TO_SUB, 0), ("rows", ".", NO_STORE, 0), ("sums", "squares", SHUFFLE, 1),
    ("update", "adamw", DIVIDE_DOWN, 0), ("update", "adamw", MUL_TO_ADD, 1),
    ("update", "judge", NEGATE, 0), ("update", "master", PHILOX, 0),
]

RANDOM = [DROP_BARRIER, TRUNCATE, TRUNCATE_PAIR, MAX_TO_MIN, ADD_TO_SUB, MUL_TO_ADD, FMA_DOWN,
          DIVIDE_DOWN, TURNED, LESS_EQUAL, GREATER_EQUAL, NEGATE, STRIDE, SHUFFLE, SCALE, WAIT,
          UNTRANSPOSE, SWAP_A, NO_STORE, OFFSET]


def entries(text):
    """Where each kernel's body is."""
    for found in re.finditer(r"\.entry (\S+)\(", text):
        yield found.group(1), found.start(), text.index("\n}\n", found.start())


def changed(text, start, end, change, which):
    """The text with one place of a body changed, and its line there; None where there is none."""
    _, pattern, replacement = change
    places = list(re.finditer(pattern, text[start:end]))
    if which >= len(places):
        return None
    place = places[which]
    new = place.expand(replacement)
    if "+4;" in new:  # a sum of two literals is no operand
        new = re.sub(r"(\d+)\+4;", lambda m: f"{int(m.group(1)) + 4};", new)
    at = start + place.start()
    line = text[text.rfind("\n", 0, at) + 1:text.index("\n", at)].strip()
    return text[:at] + new + text[start + place.end():], line


class Suite:
    """The conformance suite of a build, on PTX."""

    def __init__(self, build):
        self.program = build / "tests/cuda/test_conformance_cuda"
        self.ptx = build / "cuda/ptx"
        self.environment = {"LISA_BACKEND_PATH": str(build / "cuda/host"),
                            "LD_LIBRARY_PATH": str(build / "cuda/host"),
                            "LD_PRELOAD": str(build / "cuda/ptx/libhostptx.so")}

    def failures(self, directory, case):
        """The tests that fail, by name; a busy machine's timeout is no failure."""
        environment = {"CK_TIMEOUT_MULTIPLIER": "100", **os.environ, **self.environment,
                       "PTX_DIRECTORY": str(directory), "CK_RUN_CASE": case}
        run = subprocess.run([self.program], env=environment, capture_output=True, text=True,
                             errors="replace")
        found = re.findall(r":[FE]:(\w+:\w+:\d+):(?!.*timeout expired)", run.stdout)
        ended = re.search(r"^\d+%: Checks: (\d+)", run.stdout, re.M)
        if not ended or ended.group(1) == "0":
            return {"the program does not run: " + (run.stderr or run.stdout).strip()[-200:]}
        return set(found)


def listed(texts):
    for source, kernel, change, which in LISTED:
        bodies = [e for e in entries(texts.get(source, "")) if re.search(kernel, e[0])]
        mutant = None
        for name, start, end in bodies:
            mutant = mutant or changed(texts[source], start, end, change, which)
        yield source, case_of(source, kernel), f"{source} {kernel}: {change[0]}", mutant


def drawn(texts, count, seed):
    places = []
    for source, text in sorted(texts.items()):
        for name, start, end in entries(text):
            for change in RANDOM:
                n = len(re.findall(change[1], text[start:end]))
                places += [(source, name, start, end, change, i) for i in range(n)]
    random.seed(seed)
    for source, name, start, end, change, i in random.sample(places, min(count, len(places))):
        mutant = changed(texts[source], start, end, change, i)
        yield source, case_of(source, name), f"{source} {name}: {change[0]}", mutant


def seen_by(suite, source, case, text, baseline):
    with tempfile.TemporaryDirectory() as copy:
        for path in suite.ptx.glob("*.ptx"):
            if path.stem != source:
                (pathlib.Path(copy) / path.name).symlink_to(path.resolve())
        (pathlib.Path(copy) / f"{source}.ptx").write_text(text)
        return sorted(suite.failures(copy, case) - baseline)


def told(mutant, tests):
    """Prints what became of a mutant; whether it was seen."""
    _, _, what, change = mutant
    line = f": '{change[1]}'" if change else ""
    if not change:
        print(f"failed: {what}: no such place", flush=True)
    elif not tests:
        print(f"failed: {what}: nobody saw it{line}", flush=True)
    else:
        more = f" and {len(tests) - 1} more" if tests[1:] else ""
        print(f"seen: {what}{line}: {tests[0]}{more}", flush=True)
    return bool(tests)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="mutants whose description has this pattern")
    top = pathlib.Path(__file__).resolve().parents[3]
    build = pathlib.Path(os.environ.get("BUILD", top / "build/release"))
    parser.add_argument("--build", type=pathlib.Path, default=build)
    return parser.parse_args()


def main():
    options = arguments()
    suite = Suite(options.build.resolve())
    texts = {p.stem: p.read_text() for p in sorted(suite.ptx.glob("*.ptx")) if p.stem in CASES}
    mutants = list(drawn(texts, options.random, options.seed) if options.random else listed(texts))
    mutants = [m for m in mutants if re.search(options.only, f"{m[1]}: {m[2]}")]
    cases = sorted({case for _, case, _, _ in mutants})
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        baseline = dict(zip(cases, pool.map(lambda c: suite.failures(suite.ptx, c), cases)))
        for case in cases:
            for name in sorted(baseline[case]):
                print(f"fails as it is: {name}", flush=True)
        seen = pool.map(
            lambda m: m[3] and seen_by(suite, m[0], m[1], m[3][0], baseline[m[1]]), mutants)
        unseen = sum(not told(m, tests) for m, tests in zip(mutants, seen))
    good = len(mutants) - unseen
    print(f"{100 * good // max(1, len(mutants))}%: Checks: {len(mutants)}, Failures: {unseen}, "
          "Errors: 0")
    return 1 if unseen and not options.random else 0


if __name__ == "__main__":
    sys.exit(main())
