#!/usr/bin/env python3
"""What bounds our kernels, as Nsight Compute counts it: one row a kernel, compact enough for a generation's notes.

    bench/ncu_table.py --generations v2d,v3c --dtype bf16 --shape 2,16,8192,128 --causal --peers fa3,cudnn
    bench/ncu_table.py --generations v2f --dtype bf16 --shape 1,32,65536,128,4,1 -o bounds.md

Runs `ncu --clock-control none` over `sdpa bench`, which verifies each generation on each problem before it times it; the
kernels of that first forward pass are what is profiled, and the program ends there. Of a peer one pass of
`bench/peers.py --profile` is. Caches are flushed before each of the profiler's passes, so times are those of cold inputs.
Needs a GPU, Nsight Compute (`ncu` on PATH, or NCU=/path/to/ncu) and `cargo build --release`; peers need PyTorch.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Column, what it counts, factor, and the metrics that count it. Chips do not know all of them: of those that this chip
# knows the largest counts, since `hmma` does not see wgmma, nor `gmma` mma.sync.
METRICS = [
    ("µs", "duration", 1e-3, ["gpu__time_duration.sum"]),
    (
        "tensor %",
        "cycles in which the tensor pipe was busy",
        1,
        [
            "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
            "sm__pipe_tensor_op_gmma_cycles_active.avg.pct_of_peak_sustained_active",
            "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active",
            "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
        ],
    ),
    ("issue %", "cycles in which a scheduler issued", 1, ["smsp__issue_active.avg.pct_of_peak_sustained_active"]),
    (
        "exp %",
        "the pipe of exponentials",
        1,
        [
            "sm__pipe_xu_cycles_active.avg.pct_of_peak_sustained_active",
            "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active",
        ],
    ),
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
    ("L2 %", "the L2 cache's throughput", 1, ["lts__throughput.avg.pct_of_peak_sustained_elapsed"]),
    ("dram %", "device memory's throughput", 1, ["dram__throughput.avg.pct_of_peak_sustained_elapsed"]),
    ("GB read", "bytes read from device memory", 1e-9, ["dram__bytes_read.sum"]),
    (
        "occupancy %",
        "warps active, of the most that a multiprocessor holds",
        1,
        ["sm__warps_active.avg.pct_of_peak_sustained_active"],
    ),
    ("registers", "registers a thread", 1, ["launch__registers_per_thread"]),
]
WAVEFRONTS = "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum"

# What a kernel can be bound by, and how busy it must be for that. Below, warps wait for one another and for answers.
BOUNDS = {
    "tensor %": "tensor pipe",
    "issue %": "issue slots",
    "exp %": "exponentials",
    "shared %": "shared memory",
    "L2 %": "L2",
    "dram %": "device memory",
}
BUSY = 80

STALLS = {
    "long_scoreboard": "device memory",
    "short_scoreboard": "shared memory's answer",
    "mio_throttle": "shared memory's queue",
    "barrier": "barrier",
    "gmma": "wgmma",
    "math_pipe_throttle": "a busy pipe",
    "wait": "fixed latency",
    "not_selected": "another warp's turn",
    "sleeping": "sleep",
    "membar": "fence",
    "lg_throttle": "global memory's queue",
    "tex_throttle": "texture's queue",
    "dispatch_stall": "dispatch",
    "branch_resolve": "branch",
    "branch_resolving": "branch",
    "no_instruction": "instructions",
    "no_instructions": "instructions",
    "drain": "stores draining",
    "imc_miss": "constants",
    "misc": "something else",
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
    """The known names of every column, and the stall reasons that there are."""
    has = lambda name: name.startswith("launch__") or name.split(".")[0] in known
    chosen = {column: list(filter(has, names)) for column, _, _, names in METRICS}
    stalls = {STALL.format(name): words for name, words in STALLS.items() if has(STALL.format(name))}
    return chosen, stalls


def question(program, generation, shape, options):
    """The `sdpa` command line whose first forward pass is profiled."""
    words = [str(program), "bench", "--generations", generation, "--shape", shape, "--dtype", options.dtype]
    return words + ["--causal"] * options.causal


def peer_question(peer, shape, options):
    """The same of a peer."""
    words = [options.python, str(ROOT / "bench/peers.py"), "--profile", peer, "--shape", shape]
    return words + ["--dtype", options.dtype, "--mask", "causal" if options.causal else "full"]


def profile(ncu, flags, command, metrics):
    """Runs a command under ncu: `(kernel's name, grid×block, {metric: value})` of the kernels profiled."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ncu.csv"
        call = [ncu, "--clock-control", "none", *flags, "--csv", "--page", "raw", "--print-units", "base"]
        call += ["--log-file", str(log), "--metrics", ",".join(metrics)]
        run = subprocess.run(call + command, capture_output=True, text=True, cwd=ROOT)
        text = log.read_text() if log.is_file() else ""
    rows = parse(text, metrics)
    if not rows:
        # ncu's exit code is the program's, which it ends itself: only the table tells.
        said = "\n".join(part.strip()[-2000:] for part in (text, run.stdout, run.stderr) if part.strip())
        fail(f"no kernel was profiled by\n  {' '.join(command)}\n{said}")
    return rows


def parse(text, metrics):
    """The rows of ncu's CSV; lines of its own (`==PROF==`) and the row of units are none."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    table = csv.DictReader(line for line in lines[start:] if line.startswith('"'))
    return [
        (row["Kernel Name"], f"{row['Grid Size']}×{row['Block Size']}", {name: number(row.get(name)) for name in metrics})
        for row in table
        if row["ID"]
    ]


def number(text):
    try:
        return float((text or "").replace(",", ""))
    except ValueError:
        return None  # `n/a`, or not asked


def counted(values, chosen):
    """Each column's value and the metric that it came from: the largest of those that count it."""
    found = {}
    for column, _, factor, _ in METRICS:
        seen = [(values[name], name) for name in chosen[column] if values.get(name) is not None]
        value, name = max(seen, default=(None, None))
        if value is not None and factor is None:
            wavefronts = values.get(WAVEFRONTS)
            value = 100 * value / wavefronts if wavefronts else None
        found[column] = (value if value is None else value * (factor or 1), name)
    return found


def cells(found, values, stalls):
    for column, _, factor, _ in METRICS:
        value = found[column][0]
        yield "–" if value is None else f"{value:.1f}" if factor is None else f"{value:.4g}"
    busiest, column = max(((found[column][0] or 0, column) for column in BOUNDS), default=(0, None))
    yield BOUNDS[column] if busiest >= BUSY else f"waiting ({BOUNDS[column]} {busiest:.0f} %)" if busiest else "–"
    waits = sorted(((values.get(name) or 0, words) for name, words in stalls.items()), reverse=True)
    total = sum(wait for wait, _ in waits)
    yield ", ".join(f"{words} {100 * wait / total:.0f} %" for wait, words in waits[:4] if wait) if total else "–"


def render(rows, chosen, stalls):
    """The table of `(who, problem, kernel, values)`, and below it what its columns are."""
    header = ["who", "problem", "grid×block"] + [column for column, *_ in METRICS] + ["bound by", "warps wait for"]
    table = [header, ["---"] * 3 + ["---:"] * len(METRICS) + ["---"] * 2]
    used = {column: {} for column, *_ in METRICS}
    for who, problem, kernel, values in rows:
        found = counted(values, chosen)
        for column, (_, name) in found.items():
            if name:
                used[column].setdefault(name, []).append(who)
        table.append([who, problem, kernel, *cells(found, values, stalls)])
    text = "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n\n"
    for column, words, *_ in METRICS:
        names = used[column]
        everyone = len(names) == 1
        whose = lambda name: "" if everyone else f" for {', '.join(dict.fromkeys(names[name]))}"
        sources = "; ".join(f"`{name}`{whose(name)}" for name in names) or "not on this chip"
        text += f"- {column}: {words} ({sources})\n"
    text += f"- bound by: the busiest of these where it is busy at least {BUSY} % of the time\n"
    text += "- warps wait for: the largest reasons why a warp did not issue, of all warps' time\n"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", required=True, metavar="B,H,L,d[,Hkv][,Lq]", help="as sdpa bench takes it")
    parser.add_argument("--generations", required=True, metavar="ID,…", help="which generations")
    parser.add_argument("--peers", default="", metavar="NAME,…", help="peers beside them: flash, cudnn, efficient, fa3")
    parser.add_argument("--dtype", default="f16", choices=["f16", "bf16"])
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--two-launches", default="v2f", metavar="ID,…", help="generations whose plans launch twice")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/sdpa", help="the program `sdpa`")
    parser.add_argument("--python", default="python3", metavar="PROGRAM", help="the Python that has PyTorch")
    parser.add_argument("-o", "--output", type=Path, help="write the table there, too")
    options = parser.parse_args()
    if not options.program.is_file():
        fail(f"{options.program} is missing: cargo build --release")
    program = options.program.resolve()

    ncu = tool()
    chosen, stalls = choose(known_metrics(ncu))
    metrics = [name for names in chosen.values() for name in names] + [WAVEFRONTS] + list(stalls)
    split = lambda words: [word for word in words.split(",") if word]
    rows = []
    for shape in options.shape:
        problem = f"({shape}) {options.dtype}" + " causal" * options.causal
        for generation in split(options.generations):
            launches = 2 if generation in split(options.two_launches) else 1
            flags = ["--kernel-name", "attention", "--launch-count", str(launches), "--kill", "yes"]
            found = profile(ncu, flags, question(program, generation, shape, options), metrics)
            rows += [(generation, problem, kernel, values) for _, kernel, values in found]
        for peer in split(options.peers):
            flags = ["--profile-from-start", "off", "--target-processes", "all"]
            for name, kernel, values in profile(ncu, flags, peer_question(peer, shape, options), metrics):
                print(f"{peer}: {name}", file=sys.stderr)
                rows.append((peer, problem, kernel, values))
    text = render(rows, chosen, stalls)
    print(text, end="")
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
