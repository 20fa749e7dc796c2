#!/usr/bin/env python3
"""One sitting of context parallelism on two GPUs: ours, PyTorch's, the same bits in a hundred passes, a killed and a stopped rank.

    python3 bench/two_gpus.py --sdpa target/release/sdpa --out results/parallel-sitting

Every step leaves its figures, its output (STEP.log) and what became of it (STEP.json) in the folder as it ends, so a sitting
that is cut short keeps what it had; started again with the same folder it goes on with the steps that are not done. The first
steps are those that matter most. Exits 0 if every step is done and right, 1 if one is wrong, 2 if one failed or was not run.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WRONG, FAILED = 1, 2

# What became of a step.
DONE, IS_WRONG, CUT, BROKEN, LEFT = "done", "wrong", "cut short", "failed", "not run"


class Sitting:
    def __init__(self, options):
        self.options = options
        self.folder = Path(options.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        self.steps = []

    def left(self):
        return self.options.limit - (time.monotonic() - self.started)

    def step(self, name, seconds, work):
        """Does a step, unless it is done already or there is no time; `work` takes the seconds that it may last."""
        path = self.folder / f"{name}.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        if known.get("outcome") == DONE:
            self.steps.append(known)
            return
        begun = time.monotonic()
        if self.left() < 5:
            found = {"outcome": LEFT, "why": f"less than 5 s of {self.options.limit} s were left"}
        else:
            try:
                found = work(min(seconds, self.left()))
            except OSError as error:
                found = {"outcome": BROKEN, "why": str(error)}
        found = {"step": name, "seconds": round(time.monotonic() - begun, 1)} | found
        write(path, found)
        self.steps.append(found)
        write(self.folder / "sitting.json", self.steps)
        print(f"{name}: {found['outcome']}, {found['seconds']} s {found.get('why', '')}".rstrip(), flush=True)

    def run(self, name, command, seconds, environment=None):
        """Runs a command to its end or the time's; its output goes to the step's log as it comes."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = start(command, out, environment)
            code = wait(process, seconds)
        if code is None:
            end(process)
        found = {"command": [str(word) for word in command], "code": code, "said": log.read_text(errors="replace")[-2000:]}
        if code is None:
            return found | {"outcome": CUT, "why": f"after {seconds:.0f} s"}
        # The program's own exit code for a wrong result.
        outcome = {0: DONE, WRONG: IS_WRONG}.get(code, BROKEN)
        last = found["said"].strip().splitlines()[-1:] or [""]
        return found | {"outcome": outcome} | ({"why": last[0]} if code else {})

    def ours(self, name, arguments, seconds):
        """`sdpa bench --ranks 2`, whose figures are a file beside."""
        options = self.options
        figures = self.folder / f"{name}.figures.json"
        command = [options.sdpa, "bench", "--ranks", "2", "--dtype", "bf16", "--deadline", "30", "--json", figures]
        return self.step(name, seconds, lambda left: self.run(name, [*command, *arguments], left))

    def torch(self, name, arguments, seconds):
        """PyTorch's context_parallel: a line for each backend and way, which the log keeps as they come."""
        options = self.options
        command = [options.python, "-m", "torch.distributed.run", "--nproc-per-node", "2", HERE / "context_parallel.py"]
        command += ["--shape", options.shape, "--dtype", "bfloat16", "--samples", "3", *arguments]

        def work(left):
            found = self.run(name, command, left)
            lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
            figures = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
            write(self.folder / f"{name}.figures.json", figures)
            if found["outcome"] == DONE and not figures:
                return found | {"outcome": BROKEN, "why": "no figures"}
            return found

        return self.step(name, seconds, work)

    def lost(self, name, sent):
        """Two processes in endless passes, of which rank 1 gets a signal: rank 0 must end, in time, and name it."""
        deadline = self.options.deadline

        def work(left):
            end_of_step = time.monotonic() + left
            port = free_port()
            ranks, logs = [], [self.folder / f"{name}-rank{rank}.log" for rank in (0, 1)]
            arguments = ["--way", "ring", "--shape", self.options.short, "--causal", "--repeats", "65000"]
            command = [self.options.sdpa, "bench", "--ranks", "2", "--dtype", "bf16", "--deadline", str(deadline), *arguments]
            try:
                for rank, log in enumerate(logs):
                    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                    with log.open("wb") as out:
                        ranks.append(start(command, out, own))
                met = lambda: "2 processes" in logs[0].read_text(errors="replace") or ranks[0].poll() is not None
                until(met, end_of_step - deadline)
                # Time to connect and to be in the passes.
                until(lambda: any(rank.poll() is not None for rank in ranks), time.monotonic() + self.options.settle)
                if any(rank.poll() is not None for rank in ranks):
                    said = [log.read_text(errors="replace")[-600:] for log in logs]
                    return {"outcome": BROKEN, "why": "a rank ended before the signal", "said": said}
                begun = time.monotonic()
                ranks[1].send_signal(sent)
                # A deadline, and what a machine needs to end a process; never more than the step has.
                code = wait(ranks[0], max(1.0, min(deadline + 15, end_of_step - begun)))
                after = round(time.monotonic() - begun, 2)
                said = logs[0].read_text(errors="replace").strip()[-600:]
                found = {"signal": sent.name, "code": code, "after_seconds": after, "said": said}
                if sent == signal.SIGSTOP:
                    # Once it goes on it hears that it was given up, and ends too.
                    ranks[1].send_signal(signal.SIGCONT)
                    found["stopped_rank_ended_with"] = wait(ranks[1], max(1.0, min(15, end_of_step - time.monotonic())))
                if code is None:
                    return found | {"outcome": IS_WRONG, "why": f"rank 0 still hangs after {after} s"}
                named = re.search(r"rank 1 (is gone|was expected and did not answer|failed)", said)
                if code == 0 or not named:
                    return found | {"outcome": IS_WRONG, "why": f"rank 0 ended with {code} and does not name rank 1"}
                if sent == signal.SIGSTOP and found["stopped_rank_ended_with"] is None:
                    return found | {"outcome": IS_WRONG, "why": "the stopped rank still hangs after it went on"}
                return found | {"outcome": DONE}
            finally:
                for rank in ranks:
                    end(rank)

        return self.step(name, 60 + deadline, work)


def write(path, value):
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def start(command, out, environment=None):
    own = os.environ | {name: str(value) for name, value in (environment or {}).items()}
    words = [str(word) for word in command]
    return subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=own, start_new_session=True)


def wait(process, seconds):
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def end(process):
    """Ends a process that this script started, and what it started in its session; a stopped one, too."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def until(asked, end):
    while time.monotonic() < end and not asked():
        time.sleep(0.05)


def free_port():
    """A port whose next one, which rank 0 listens on, was free a moment ago, too."""
    while True:
        with socket.socket() as first, socket.socket() as next_one:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                next_one.bind(("127.0.0.1", port + 1))
                return port
            except (OSError, OverflowError):
                continue


def sit(options):
    sitting = Sitting(options)
    query = "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit"
    sitting.step("machine", 20, lambda left: sitting.run("machine", ["nvidia-smi", query, "--format=csv"], left))
    long, short = ["--shape", options.shape], ["--shape", options.short]
    sitting.ours("ours-causal", [*long, "--causal", "--samples", "3"], 70)
    sitting.ours("ours-full", [*long, "--samples", "3"], 90)
    sitting.lost("stopped", signal.SIGSTOP)
    sitting.lost("killed", signal.SIGKILL)
    sitting.torch("torch-causal", ["--causal"], 60)
    sitting.torch("torch-full", [], 70)
    sitting.ours("bits-short", [*short, "--both", "--samples", "3", "--repeats", str(options.repeats)], 40)
    for mask, flags in (("causal", ["--causal"]), ("full", [])):
        for way in ("ring", "heads"):
            arguments = [*long, *flags, "--way", way, "--samples", "3", "--repeats", str(options.repeats)]
            sitting.ours(f"bits-{way}-{mask}", arguments, 120)
    outcomes = {step["outcome"] for step in sitting.steps}
    return WRONG if IS_WRONG in outcomes else FAILED if outcomes - {DONE} else 0


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdpa", default="target/release/sdpa", help="the program")
    parser.add_argument("--python", default=sys.executable, help="the Python that has PyTorch")
    parser.add_argument("--out", required=True, help="the folder for what is found")
    parser.add_argument("--limit", type=float, default=345.0, help="seconds for all of it")
    parser.add_argument("--shape", default="1,32,131072,128,8", help="B,H,L,d,Hkv of what is timed")
    parser.add_argument("--short", default="1,32,8192,128,8", help="the same of what is repeated and interrupted")
    parser.add_argument("--repeats", type=int, default=100, help="passes whose bits must be the same")
    parser.add_argument("--deadline", type=int, default=10, help="seconds after which a stopped rank is given up")
    parser.add_argument("--settle", type=float, default=6.0, help="seconds from the ranks' meeting to the signal")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(sit(parse(sys.argv[1:])))
