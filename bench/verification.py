#!/usr/bin/env python3
"""Proves every generation on the GPU here and writes down what each tool said: the suite on CUDA, compute-sanitizer's four
tools, and that a hundred and one runs give the same bits.

    cargo build --release -p harness && cargo test -p harness --release --test suite --no-run
    bench/verification.py --suite target/release/deps/suite-HASH -o results/nvidia-h200-verification.md

Needs a GPU and, for the sanitizer, `compute-sanitizer` on PATH. Exits 1 where anything failed or nothing ran; the page is
written all the same, and says so. What a generation does not take is listed, too.
"""

import argparse
import json
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
    "h3 q77 kv200 d64 bf16 full normal seed=3",
    "h2 q70 kv193 d256 f16 full normal seed=3",
    "h2 q130 kv300 d96 bf16 causal normal seed=3",
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

# Exit codes: `sdpa`'s where it could not do what was asked, a sanitizer's for a finding, a shell's where nothing could start.
UNUSABLE, FOUND, NOT_STARTED = 2, 9, 127


def run(command, **environment):
    try:
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "SDPA_DEVICE": "cuda", **environment},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    except OSError as error:
        return NOT_STARTED, f"{command[0]} cannot be started: {error.strerror}"
    return done.returncode, done.stdout


def last_line(text, wanted=""):
    """The last line with the wanted words, or where none has them, the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ([line for line in lines if wanted in line] or lines or ["no output"])[-1]


def verdict(said):
    """What `sdpa verify` found, in one line: of a wrong kernel, the reason."""
    reason = re.search(r"^\S+ fails .*\n  case .*\n((?:.*\n)*?)  look at ", said, re.MULTILINE)
    return "; ".join(line.strip() for line in reason[1].splitlines()) if reason else last_line(said)


def declined(code, said):
    """Why the generation does not take the case, or None. Whatever else makes `sdpa verify` give up, it does so before it
    repeats the case or after it has a plan."""
    asked, planned = (re.search(f"^{word}: ", said, re.MULTILINE) for word in ("case", "plan"))
    return last_line(said).removeprefix("error: ") if code == UNUSABLE and asked and not planned else None


def known(program):
    """The ids of all generations."""
    _, listed = run([program, "list", "--json"])
    try:
        return [generation["id"] for generation in json.loads(listed)]
    except ValueError:
        raise RuntimeError(f"{program} list: {last_line(listed)}") from None


def suite(program):
    """The suite's verdict, what it says of every generation's comparison with the oracle, and the tests that failed."""
    # Where this checkout's snapshots are: the suite may have been built in another.
    code, said = run([program], INSTA_WORKSPACE_ROOT=str(ROOT))
    result = last_line(said, "test result:")
    kept = [line for line in said.splitlines() if re.search(r"::(real_model|matches_reference): ", line)]
    failed = sorted({line.split()[1] for line in said.splitlines() if re.match(r"test .* \.\.\. FAILED", line)})
    good = code == 0 and result.startswith("test result: ok")
    lines = [f"exit {code} | {result}", *(f"failed: {name}" for name in failed), *sorted(kept)]
    return good, "`SDPA_DEVICE=cuda cargo test -p harness --release --test suite`", lines


def refusal(program, generation, case):
    return declined(*run([program, "verify", generation, case]))


def refused(generation, case, reason):
    return f"{generation} | {case} | declined: {reason}"


def sanitize(tool, program, generation, case):
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND), program, "verify", generation, case]
    code, said = run(command)
    summary = last_line(said, "SUMMARY").lstrip("= ")
    clean = code == 0 and re.search(r"SUMMARY: 0 ", summary) is not None
    if code not in (0, FOUND) and "SUMMARY" in summary:
        # The program itself failed, whatever the sanitizer thinks of it.
        own = [line for line in said.splitlines(keepends=True) if not line.startswith("=========")]
        summary += f" | {verdict(''.join(own))}"
    return clean, f"{generation} | {tool} | {case} | exit {code} | {summary}"


def repeat(program, generation, case):
    """Whether the bits were always the same; None where the generation does not take the case."""
    code, said = run([program, "verify", generation, case, "--repeat", str(REPETITIONS)])
    if reason := declined(code, said):
        return None, refused(generation, case, reason)
    same = code == 0 and f"the same bits in {REPETITIONS + 1} runs" in said
    return same, f"{generation} | {case} | exit {code} | {verdict(said)}"


def sanitized(program, generations, jobs):
    """All tools over all cases that the generations take, so many at a time."""
    if not shutil.which("compute-sanitizer"):
        return False, "compute-sanitizer", ["not on PATH"]
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        asked = [(generation, case) for generation in generations for case in SANITIZED]
        reasons = dict(zip(asked, pool.map(lambda pair: refusal(program, *pair), asked)))
        runs = [(tool, program, *pair) for pair, reason in reasons.items() if not reason for tool in TOOLS]
        results = list(pool.map(lambda arguments: sanitize(*arguments), runs))
    clean = sum(fine for fine, _ in results)
    lines = [line for _, line in results] + [refused(*pair, reason) for pair, reason in reasons.items() if reason]
    return 0 < clean == len(results), f"compute-sanitizer: {clean} of {len(results)} runs clean", lines


def repeated(program, generations):
    results = [repeat(program, generation, case) for generation in generations for case in REPEATED]
    judged = [same for same, _ in results if same is not None]
    return bool(judged) and all(judged), f"The same bits in {REPETITIONS + 1} runs", [line for _, line in results]


def section(good, title, lines):
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
    if options.output and not options.output.parent.is_dir():
        parser.error(f"{options.output.parent}: no such folder")
    try:
        generations = options.generations.split(",") if options.generations else known(program)
    except RuntimeError as error:
        parser.error(str(error))

    _, gpu = run(["nvidia-smi", "--query-gpu=name,driver_version,clocks.current.sm,power.draw,temperature.gpu", "--format=csv"])
    parts = [suite(suite_program), sanitized(program, generations, options.jobs), repeated(program, generations)]
    head = "# Verified on a GPU\n\nWritten by `bench/verification.py`; edits are lost.\n\n```\n" + gpu.strip() + "\n```\n"
    text = head + "".join(section(*part) for part in parts)
    if options.output:
        options.output.write_text(text)
    else:
        print(text)
    sys.exit(0 if all(good for good, _, _ in parts) else 1)


if __name__ == "__main__":
    main()
