#!/usr/bin/env python3
"""What ptxas made of the CUDA backend's kernels, held to a committed budget.

Each source is compiled to machine code (no GPU is needed); ptxas says how many registers a kernel
takes and whether it spills, and the code itself which instructions that matter are in it. Names are
those of the source. One line for each violation, and Check's closing line.

    static.py [--write] [--table] [--verify NVDISASM] [--jobs N] [--build DIRECTORY]

--write makes the budget from what is there, --table prints it, --verify counts with NVIDIA's own
disassembler too and compares. NVCC and NVCC_LANGUAGE in the environment are the Makefile's compiler
and flags. Where the former is missing the exit status is 77."""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[3]
SOURCES = TOP / "liblisa/backend/cuda"
BUDGET = pathlib.Path(__file__).with_name("budget.json")
ARCHITECTURES = ("sm_80", "sm_90")
REGISTER_GRANULE = 8  # a warp's registers are given out by so many a thread

# The low 12 bits of an instruction of 16 bytes (Volta and later), as NVIDIA's disassembler reads
# them; --verify compares.
OPCODES = {
    0x981: "LDG", 0x986: "STG", 0x984: "LDS", 0x388: "STS", 0x988: "STS", 0x983: "LDL",
    0x387: "STL", 0x987: "STL", 0x23C: "HMMA", 0x83B: "LDSM", 0xFAE: "LDGSTS", 0xB1D: "BAR",
    0xF89: "SHFL", 0x589: "SHFL", 0x989: "SHFL", 0x389: "SHFL",
}
SIZED = {"LDG", "STG", "LDS", "STS"}
SIZES = {4: "32", 5: "64", 6: "128"}  # bits 73 to 75

# What a budget has of a kernel: at most so much, at least so many.
MOST = {"registers": "registers", "spill": "spill", "stack": "stack", "shared": "shared",
        "LDL": "loads from local memory", "STL": "stores to local memory"}
LEAST = {"LDG.128": "loads of 128 bits", "STG.128": "stores of 128 bits",
         "HMMA": "products of matrices", "LDSM": "loads of matrices",
         "LDGSTS": "asynchronous copies"}


def release_of(nvcc):
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    return found.group(1) if found else "?"


def newest_source():
    inside = [p for p in SOURCES.iterdir() if p.suffix in (".cu", ".cuh", ".h")]
    return max(p.stat().st_mtime for p in inside + [TOP / "include/lisa/sys/backend.h"])


def compiled(nvcc, build, source, arch):
    """The cubin and what ptxas said, made anew where a source is newer."""
    cubin = build / f"{source.stem}.{arch}.cubin"
    said = cubin.with_suffix(".txt")
    if not said.exists() or not cubin.exists() or said.stat().st_mtime < newest_source():
        flags = [*os.environ["NVCC_LANGUAGE"].split(), "-Xptxas", "-v", "-cubin", f"-arch={arch}"]
        run = subprocess.run([nvcc, *flags, str(source), "-o", str(cubin)], cwd=TOP,
                             capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"{source.name} for {arch}: nvcc fails\n{run.stderr.strip()}")
        said.write_text(run.stderr)
    return cubin.read_bytes(), said.read_text()


def sections(elf):
    """Names and contents of a 64-bit ELF file's sections."""
    table, = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    strings = headers[names][4]
    for name, _, _, _, offset, length in headers:
        start = strings + name
        yield elf[start:elf.index(b"\0", start)].decode(), elf[offset:offset + length]


def instructions(code):
    """How many there are of each instruction that OPCODES names, those of memory by size."""
    counts = collections.Counter()
    for low, high in struct.iter_unpack("<QQ", code[:len(code) // 16 * 16]):
        name = OPCODES.get(low & 0xFFF)
        if not name:
            continue
        counts[name] += 1
        size = SIZES.get(high >> 9 & 7)
        if name in SIZED and size:
            counts[f"{name}.{size}"] += 1
    return counts


RESOURCES = re.compile(
    r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads\s+ptxas info\s+: Used (\d+) registers([^\n]*)")


def resources(said):
    for name, stack, stores, loads, registers, rest in RESOURCES.findall(said):
        shared = re.search(r"(\d+) bytes smem", rest)
        yield name, {"registers": int(registers), "spill": int(stores) + int(loads),
                     "stack": int(stack), "shared": int(shared.group(1)) if shared else 0}


ANONYMOUS = re.compile(r"(\d+)_GLOBAL__N__")


def without_file(mangled):
    """nvcc names the anonymous namespace after the file and its contents."""
    found = ANONYMOUS.search(mangled)
    if not found:
        return mangled
    end = found.start() + len(found.group(1)) + int(found.group(1))
    return mangled[:found.start()] + "12_GLOBAL__N_1" + without_file(mangled[end:])


def demangled(names):
    filt = shutil.which(os.environ.get("CXXFILT", "c++filt"))
    if not filt or not names:
        return dict(zip(names, names))
    plain = subprocess.run([filt], input="\n".join(map(without_file, names)), capture_output=True,
                           text=True, check=True).stdout.splitlines()
    return {name: re.sub(r"^void |\(anonymous namespace\)::", "", text)
            for name, text in zip(names, plain)}


def kernels_of(elf, said):
    """What there is of each kernel in a cubin, by mangled name."""
    used = dict(resources(said))
    found = {}
    for name, content in sections(elf):
        kernel = name[len(".text."):]
        if name.startswith(".text.") and kernel in used:
            found[kernel] = {**instructions(content), **used[kernel]}
    return found


def measured(nvcc, build, jobs):
    """{kernel: {architecture: {what: count}}}, and the cubins by name."""
    tasks = [(s, a) for s in sorted(SOURCES.glob("*.cu")) for a in ARCHITECTURES]
    build.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda t: compiled(nvcc, build, *t), tasks))
    table = {}
    for (source, arch), (elf, said) in zip(tasks, results):
        kernels = kernels_of(elf, said)
        names = demangled(sorted(kernels))
        for mangled, counts in kernels.items():
            name = f"{source.name}: {names[mangled]}"
            table.setdefault(name, {})[arch] = counts
    return table


def budget_of(counts, before):
    """Registers up to the next granule, nothing of what is not there. A spill is never written
    into a budget: who wants to live with one puts it there by hand, where it may only get less."""
    kept = {key: counts.get(key, 0) for key in [*MOST, *LEAST] if counts.get(key, 0)}
    kept["registers"] = -(-kept["registers"] // REGISTER_GRANULE) * REGISTER_GRANULE
    for key in ("spill", "stack", "LDL", "STL"):
        least = min(kept.pop(key, 0), before.get(key, 0))
        if least:
            kept[key] = least
    return kept


def violations(name, arch, counts, allowed, same_release):
    """Registers are a release's own; spills, and instructions that are gone, are nobody's."""
    for key, what in MOST.items():
        has, most = counts.get(key, 0), allowed.get(key, 0)
        if has > most and (same_release or key != "registers"):
            yield f"{name} ({arch}): {what} {has}, at most {most}"
    for key, what in LEAST.items():
        has, least = counts.get(key, 0), allowed.get(key, 0)
        if has < least:
            yield f"{name} ({arch}): {what} {has}, at least {least}"


def judge(table, budget, release):
    checks, lines = 0, []
    same = budget.get("release") == release
    known = budget["kernels"]
    for name, by_arch in sorted(table.items()):
        for arch, counts in sorted(by_arch.items()):
            checks += 1
            if arch not in known.get(name, {}):
                lines.append([f"{name} ({arch}): no budget (static.py --write)"])
                continue
            found = list(violations(name, arch, counts, known[name][arch], same))
            if found:
                lines.append(found)
    for name in sorted(set(known) - set(table)):
        checks += 1
        lines.append([f"{name}: a budget without a kernel (static.py --write)"])
    return checks, lines


# ---- NVIDIA's disassembler ----------------------------------------------------------------------

LISTED = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


def listed_counts(nvdisasm, cubin):
    run = subprocess.run([nvdisasm, "-c", str(cubin)], capture_output=True, text=True, check=True)
    kernels, current = {}, None
    for line in run.stdout.splitlines():
        head = re.match(r"\s*\.section\s+\.text\.([^,\s]+)", line)
        if head:
            current = kernels.setdefault(head.group(1), collections.Counter())
        found = LISTED.match(line)
        if not found or current is None:
            continue
        parts = found.group(1).split(".")
        if parts[0] not in OPCODES.values():
            continue
        current[parts[0]] += 1
        size = next((p for p in parts if p in ("64", "128")), None)
        small = {"U8", "S8", "U16", "S16"} & set(parts)
        if parts[0] in SIZED and not small:
            current[f"{parts[0]}.{size or '32'}"] += 1
    return kernels


def verify(nvdisasm, build):
    """Whether both ways of counting agree on every kernel."""
    differences, seen = [], collections.Counter()
    for cubin in sorted(build.glob("*.cubin")):
        listed = listed_counts(nvdisasm, cubin)
        for name, content in sections(cubin.read_bytes()):
            if name.startswith(".text."):
                own = instructions(content)
                theirs = listed.get(name[len(".text."):], collections.Counter())
                seen.update(own)
                if own != theirs:
                    differences.append(f"{cubin.name}: {name}: {own - theirs} {theirs - own}")
    print("instructions counted alike:", dict(sorted(seen.items())))
    return differences


def print_table(table):
    for name, by_arch in sorted(table.items()):
        for arch, c in sorted(by_arch.items()):
            shown = " ".join(f"{k} {c[k]}" for k in [*MOST, *LEAST, "BAR", "SHFL"] if c.get(k))
            warps = min(64, 65536 // (-(-c["registers"] // 8) * 8 * 32))
            print(f"{name} ({arch}): {shown}; registers for {warps} of 64 warps")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--verify", metavar="NVDISASM")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    build = pathlib.Path(os.environ.get("BUILD", TOP / "build/release")) / "cuda/static"
    parser.add_argument("--build", type=pathlib.Path, default=build)
    return parser.parse_args()


def main():
    options = arguments()
    options.build = options.build.resolve()
    nvcc = shutil.which(os.environ.get("NVCC", "nvcc"))
    if not nvcc:
        print("nvcc is not installed")
        return 77
    try:
        table = measured(nvcc, options.build, options.jobs)
    except RuntimeError as error:
        print(error)
        print("0%: Checks: 1, Failures: 0, Errors: 1")
        return 1
    release = release_of(nvcc)
    if options.table:
        print_table(table)
    if options.write:
        before = json.loads(BUDGET.read_text())["kernels"] if BUDGET.exists() else {}
        kernels = {name: {arch: budget_of(c, before.get(name, {}).get(arch, {}))
                          for arch, c in sorted(by_arch.items())}
                   for name, by_arch in sorted(table.items())}
        BUDGET.write_text(json.dumps({"release": release, "kernels": kernels}, indent=1) + "\n")
    checks, lines = judge(table, json.loads(BUDGET.read_text()), release)
    if options.verify:
        checks += 1
        lines += [[d] for d in verify(options.verify, options.build)][:1]
    for line in lines:
        print("\n".join(line))
    good = checks - len(lines)
    print(f"{100 * good // max(checks, 1)}%: Checks: {checks}, Failures: {len(lines)}, Errors: 0")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
