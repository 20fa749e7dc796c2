#!/usr/bin/env python3
"""Proves every generation on the GPU here and writes down what each tool said: the suite on CUDA, compute-sanitizer's four
tools, and that a hundred and one runs give the same bits.

    cargo build --release -p harness && cargo test -p harness --release --test suite --no-run
    bench/verification.py --suite target/release/deps/suite-HASH -o results/nvidia-h200-verification.md

Needs a GPU and, for the sanitizer, `compute-sanitizer` on PATH. Exits 1 where anything failed; the page is written all the
same, and says so.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Ragged, causal, shared key heads; few queries over many keys, which some generations split over blocks. Small, since the
# tools run a hundred times slower.
SANITIZED = [
    "h2 L300 d64 f16 causal normal seed=3",
    "h2 q70 kv193 d256 f16 full normal seed=3",
    "h4/2 q150 kv450 d128 bf16 causal normal seed=3",
    "h8/2 q1 kv700 d64 f16 full normal seed=3",
    "h8/2 q4 kv2100 d128 bf16 causal normal seed=3",
]
TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"]
REPEATED = [
    "b1 h8 L512 d64 f16 causal normal seed=3",
    "b2 h8 L2048 d128 bf16 causal normal seed=3",
    "b2 h32/4 q1 kv8192 d128 bf16 full normal seed=3",
]
REPETITIONS = 100

# `sdpa`'s exit code for a problem that a generation does not take.
DECLINED = 2


def run(command, **environment):
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "SDPA_DEVICE": "cuda", **environment},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def last_line(text, wanted=""):
    lines = [line.strip() for line in text.splitlines() if wanted in line and line.strip()]
    return lines[-1] if lines else "no output"


def suite(program):
    """The suite's verdict, what it says of every generation's comparison with the oracle, and the tests that failed."""
    code, said = run([program])
    kept = [line for line in said.splitlines() if re.search(r"::(real_model|matches_reference): ", line)]
    failed = sorted({line.split()[1] for line in said.splitlines() if re.match(r"test .* \.\.\. FAILED", line)})
    return code == 0, [last_line(said, "test result:"), *(f"failed: {name}" for name in failed), *sorted(kept)]


def takes(program, generation, case):
    code, _ = run([program, "verify", generation, case])
    return code != DECLINED


def sanitize(tool, program, generation, case):
    code, said = run(["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", program, "verify", generation, case])
    return code == 0, f"{generation} | {tool} | {case} | exit {code} | {last_line(said, 'SUMMARY').lstrip('= ')}"


def repeat(program, generation, case):
    """None where the generation does not take the case."""
    code, said = run([program, "verify", generation, case, "--repeat", str(REPETITIONS)])
    if code == DECLINED:
        return None
    return code == 0, f"{generation} | {case} | exit {code} | {last_line(said)}"


def section(title, good, lines):
    mark = "" if good else "**Something failed here.**\n\n"
    return f"\n## {title}\n\n{mark}```\n" + "\n".join(lines) + "\n```\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/sdpa", help="sdpa, built for release")
    parser.add_argument("--suite", required=True, help="the suite's executable, built for release")
    parser.add_argument("--generations", help="ids with commas; all by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="sanitizers at a time")
    parser.add_argument("-o", "--output", type=Path, help="the page; standard output by default")
    options = parser.parse_args()
    program, suite_program = (str(Path(path).resolve()) for path in (options.program, options.suite))
    for path in (program, suite_program):
        if not os.access(path, os.X_OK):
            parser.error(f"{path}: no such program; build it as --help says")

    if options.generations:
        generations = options.generations.split(",")
    else:
        code, listed = run([program, "list"])
        generations = re.findall(r"^\s*(v\d+[a-z]*)\b", listed, re.MULTILINE)
        if code or not generations:
            parser.error(f"{program} list: {last_line(listed)}")

    _, gpu = run(["nvidia-smi", "--query-gpu=name,driver_version,clocks.current.sm,power.draw,temperature.gpu", "--format=csv"])
    page = ["# Verified on a GPU\n\nWritten by `bench/verification.py`; edits are lost.\n\n```\n" + gpu.strip() + "\n```\n"]
    good, lines = suite(suite_program)
    page.append(section("`SDPA_DEVICE=cuda cargo test -p harness --release --test suite`", good, lines))
    all_good = good

    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        asked = [(generation, case) for generation in generations for case in SANITIZED]
        taken = [pair for pair, yes in zip(asked, pool.map(lambda pair: takes(program, *pair), asked)) if yes]
        if shutil.which("compute-sanitizer"):
            runs = [(tool, program, *pair) for pair in taken for tool in TOOLS]
            results = list(pool.map(lambda arguments: sanitize(*arguments), runs))
            good = all(fine for fine, _ in results)
            clean = sum(fine for fine, _ in results)
            page.append(section(f"compute-sanitizer: {clean} of {len(results)} runs clean", good, [line for _, line in results]))
        else:
            good = False
            page.append(section("compute-sanitizer", False, ["not on PATH"]))
        all_good &= good

    asked = [(generation, case) for generation in generations for case in REPEATED]
    results = [result for pair in asked if (result := repeat(program, *pair))]
    good = all(fine for fine, _ in results)
    page.append(section(f"The same bits in {REPETITIONS + 1} runs", good, [line for _, line in results]))
    all_good &= good

    text = "".join(page)
    if options.output:
        options.output.write_text(text)
    else:
        print(text)
    sys.exit(0 if all_good else 1)


if __name__ == "__main__":
    main()
