#!/usr/bin/env python3
"""Tests of ncu_table.py with a stand-in for ncu: no GPU, no Nsight Compute. They need `cargo build --release`, or SDPA_PROGRAM."""

import argparse
import os
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True  # no folder beside the scripts
import ncu_table as table

PROGRAM = Path(os.environ.get("SDPA_PROGRAM", table.ROOT / "target/release/sdpa")).absolute()
TENSOR = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"
GMMA = "sm__pipe_tensor_op_gmma_cycles_active.avg.pct_of_peak_sustained_active"
HMMA = "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active"
TIME, DRAM = "gpu__time_duration.sum", "dram__throughput.avg.pct_of_peak_sustained_elapsed"
BARRIER, LONG = table.STALL.format("barrier"), table.STALL.format("long_scoreboard")

# As `ncu --csv --page raw --print-units base --log-file` writes it: its own lines, the header, the units, the kernels.
CSV = f'''==PROF== Connected to process 4711 (sdpa)
==PROF== Profiling "attention" - 0: 0%....50%....100% - 9 passes
==PROF== Disconnected from process 4711
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"{TIME}","{HMMA}","{GMMA}","{DRAM}","{BARRIER}","{LONG}","launch__registers_per_thread"
"","","","","","","","","","","","ns","%","%","%","inst","inst","register/thread"
"0","4711","sdpa","127.0.0.1","attention","1","7","(384, 1, 1)","(132, 1, 1)","0","9.0",\
"1,234,567","0","81.7","12.5","3","1","168"
==PROF== a line that ncu appends
'''


class Tables(unittest.TestCase):
    def test_ncus_own_lines_and_units_are_no_kernels(self):
        [(name, kernel, values)] = table.parse(CSV, [TIME, GMMA, TENSOR])
        self.assertEqual((name, kernel), ("attention", "(132, 1, 1)×(384, 1, 1)"))
        self.assertEqual(values, {TIME: 1234567.0, GMMA: 81.7, TENSOR: None})
        self.assertEqual(table.parse("==ERROR== ERR_NVGPUCTRPERM", [TIME]), [])

    def test_the_tensor_pipe_is_whatever_counts_it_here(self):
        known = {name.split(".")[0] for name in (TIME, HMMA, GMMA, DRAM, BARRIER, LONG)}
        chosen, stalls = table.choose(known)
        self.assertEqual(chosen["tensor %"], [GMMA, HMMA])
        rows = [("v3c", "p", kernel, values) for _, kernel, values in table.parse(CSV, [TIME, HMMA, GMMA, DRAM, *stalls])]
        text = table.render(rows, chosen, stalls)
        self.assertIn("| 1235 | 81.7 | – |", text)
        self.assertIn("| tensor pipe | barrier 75 %, device memory 25 % |", text)
        self.assertIn(f"- tensor %: cycles in which the tensor pipe was busy (`{GMMA}`)", text)
        self.assertIn("- shared %: wavefronts of shared memory, of the most there could be (not on this chip)", text)
        # Another generation's tensor work is another metric's.
        other = dict(rows[0][3]) | {GMMA: 0.0, HMMA: 40.0}
        text = table.render([*rows, ("v2d", "p", "k", other)], chosen, stalls)
        self.assertIn(f"(`{GMMA}` for v3c; `{HMMA}` for v2d)", text)
        self.assertIn("| waiting (tensor pipe 40 %) |", text)

    def test_the_program_takes_the_command_line(self):
        options = argparse.Namespace(dtype="bf16", causal=True)
        command = table.question(PROGRAM, "v2d", "2,16,8192,128", options)
        run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"SDPA_DEVICE": "interpreter"})
        self.assertEqual(run.returncode, 2)
        self.assertIn("GPU", run.stderr)
        self.assertNotIn("--help", run.stderr)

    def run_with(self, stand_in):
        """The script beside a stand-in for ncu, a shell script that is given ncu's words."""
        with tempfile.TemporaryDirectory() as folder:
            ncu = Path(folder) / "ncu"
            ncu.write_text(f"#!/bin/sh\n{stand_in}\n")
            ncu.chmod(ncu.stat().st_mode | stat.S_IXUSR)
            (Path(folder) / "answer.csv").write_text(CSV)
            words = [sys.executable, table.__file__, "--generations", "v3c", "--shape", "1,8,512,64"]
            words += ["--program", os.path.relpath(PROGRAM)]
            env = os.environ | {"NCU": str(ncu), "ANSWER": f"{folder}/answer.csv", "SDPA_DEVICE": "interpreter"}
            return subprocess.run(words, capture_output=True, text=True, env=env)

    QUERY = f'[ "$1" = --query-metrics ] && {{ echo {TIME.split(".")[0]} Counter; exit; }}\n'

    def test_a_kernel_is_a_row(self):
        run = self.run_with(
            self.QUERY + 'while [ "$1" != --log-file ]; do shift; done; cp "$ANSWER" "$2"\n'
            'while [ "$1" != --metrics ]; do shift; done; shift 2; "$@"'
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("| v3c | (1,8,512,64) f16 | (132, 1, 1)×(384, 1, 1) | 1235 |", run.stdout)

    def test_a_program_that_did_not_run_is_quoted(self):
        run = self.run_with(self.QUERY + 'while [ "$1" != --metrics ]; do shift; done; shift 2; exec "$@"')
        self.assertEqual(run.returncode, 1)
        self.assertIn("no kernel was profiled by", run.stderr)
        self.assertIn("GPU", run.stderr)


if __name__ == "__main__":
    unittest.main()
