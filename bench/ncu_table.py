#!/usr/bin/env python3
"""What bounds our kernels, as Nsight Compute counts it: one row a kernel, compact enough for a generation's notes.

    bench/ncu_table.py --generations v2d --dtype bf16 --shape 8,16,2048,128 --shape 8,8,2048,256
    bench/ncu_table.py --generations v2f --dtype bf16 --shape 1,32,65536,128,4,1 -o bounds.md

Runs `ncu --clock-control none` over `sdpa bench`, which verifies each generation on each problem before it times it; the
kernels of that first forward pass are what is profiled, and the program ends there. Needs a GPU, Nsight Compute
(`ncu` on PATH, or NCU=/path/to/ncu) and `cargo build --release -p harness`.
"""

import argparse
import csv
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Column, what it counts, and the metric's names from newest to oldest: chips do not agree on all of them.
METRICS = [
    ("µs", "duration", 1e-3, ["gpu__time_duration.sum"]),
    (
        "tensor %",
        "cycles in which the tensor pipe was busy",
        1,
        [
            "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active",
            "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
            "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
        ],
    ),
    ("issue %", "cycles in which a scheduler issued", 1, ["smsp__issue_active.avg.pct_of_peak_sustained_active"]),
    (
        "shared %",
        "wavefronts of shared memory, of the most there could be",
        1,
        ["l1tex__data_pipe_lsu_wavefronts_mem_shared.avg.pct_of_peak_sustained_active"],
    ),
    (
        "conflicts %",
        "wavefronts of shared memory that bank conflicts added",
        None,
        ["l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum", "l1tex__data_bank_conflicts_pipe_lsu.sum"],
    ),
    ("dram %", "device memory's throughput", 1, ["dram__throughput.avg.pct_of_peak_sustained_elapsed"]),
    ("GB read", "bytes read from device memory", 1e-9, ["dram__bytes_read.sum"]),
    ("occupancy %", "warps active, of the most there could be", 1, ["sm__warps_active.avg.pct_of_peak_sustained_active"]),
    ("registers", "registers a thread", 1, ["launch__registers_per_thread"]),
]
WAVEFRONTS = "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum"
STALLS = {
    "long_scoreboard": "device memory",
    "short_scoreboard": "shared memory's answer",
    "mio_throttle": "shared memory's queue",
    "barrier": "barrier",
    "math_pipe_throttle": "a busy pipe",
    "wait": "fixed latency",
    "not_selected": "another warp's turn",
    "sleeping": "sleep",
    "membar": "fence",
    "lg_throttle": "global memory's queue",
    "dispatch_stall": "dispatch",
    "branch_resolve": "branch",
    "no_instruction": "instructions",
    "drain": "stores draining",
    "imc_miss": "constants",
}
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"


def fail(words):
    sys.exit(f"error: {words}")


def tool():
    ncu = os.environ.get("NCU", "ncu")
    if not shutil.which(ncu):
        fail(f"{ncu} not found: install Nsight Compute, or set NCU to its path")
    return ncu


def known_metrics(ncu):
    """Base names of the metrics that this machine's GPU has."""
    listing = subprocess.run([ncu, "--query-metrics"], capture_output=True, text=True)
    if listing.returncode:
        fail(f"{ncu} --query-metrics: {(listing.stderr or listing.stdout).strip()}")
    return {line.split()[0] for line in listing.stdout.splitlines() if "__" in line}


def choose(known):
    """The first known name of every column, and the stall reasons that there are."""
    has = lambda name: name.startswith("launch__") or name.split(".")[0] in known
    chosen = {column: next(filter(has, names), None) for column, _, _, names in METRICS}
    stalls = {STALL.format(name): words for name, words in STALLS.items() if has(STALL.format(name))}
    return chosen, stalls


def kernels_of(ncu, program, generation, shape, options, metrics):
    """`(kernel, {metric: value})` of the kernels of one forward pass."""
    launches = 2 if generation in options.two_launches else 1
    command = [ncu, "--clock-control", "none", "--kernel-name", "attention", "--launch-count", str(launches)]
    command += ["--kill", "yes", "--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(metrics)]
    command += [str(program), "bench", "--generations", generation, "--shape", shape, "--dtype", options.dtype]
    command += ["--samples", "1"] + ["--causal"] * options.causal
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = run.stdout.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        fail(f"{generation} at {shape}: ncu wrote no table\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    rows = [row for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))) if row["ID"]]
    number = lambda text: float(text.replace(",", "")) if text and text.replace(",", "")[0] in "-.0123456789" else None
    return [(f"{row['Grid Size']}×{row['Block Size']}", {name: number(row.get(name) or "") for name in metrics}) for row in rows]


def cells(values, chosen, stalls):
    for column, _, factor, _ in METRICS:
        value = values.get(chosen[column])
        if value is None:
            yield "–"
        elif factor is None:
            wavefronts = values.get(WAVEFRONTS)
            yield f"{100 * value / wavefronts:.1f}" if wavefronts else "–"
        else:
            yield f"{value * factor:.4g}"
    waits = sorted(((values.get(name) or 0, words) for name, words in stalls.items()), reverse=True)
    total = sum(wait for wait, _ in waits)
    yield ", ".join(f"{words} {100 * wait / total:.0f} %" for wait, words in waits[:4] if wait) if total else "–"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", required=True, metavar="B,H,L,d[,Hkv][,Lq]", help="as sdpa bench takes it")
    parser.add_argument("--generations", required=True, metavar="ID,…", help="which generations")
    parser.add_argument("--dtype", default="f16", choices=["f16", "bf16"])
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--two-launches", default="v2f", metavar="ID,…", help="generations whose plans launch twice")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/sdpa", help="the program `sdpa`")
    parser.add_argument("-o", "--output", type=Path, help="write the table there, too")
    options = parser.parse_args()
    options.two_launches = options.two_launches.split(",")
    if not options.program.is_file():
        fail(f"{options.program} is missing: cargo build --release -p harness")

    ncu = tool()
    chosen, stalls = choose(known_metrics(ncu))
    metrics = [name for name in chosen.values() if name] + [WAVEFRONTS] + list(stalls)
    header = ["generation", "problem", "grid×block"] + [column for column, *_ in METRICS] + ["warps wait for"]
    table = [header, ["---"] * 3 + ["---:"] * len(METRICS) + ["---"]]
    mask = " causal" if options.causal else ""
    for shape in options.shape:
        for generation in options.generations.split(","):
            for kernel, values in kernels_of(ncu, options.program, generation, shape, options, metrics):
                problem = f"({shape}) {options.dtype}{mask}"
                table.append([generation, problem, kernel, *cells(values, chosen, stalls)])
    text = "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n\n"
    text += "\n".join(f"- {column}: {words} (`{chosen[column] or 'not on this chip'}`)" for column, words, *_ in METRICS) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
