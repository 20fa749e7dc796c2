#!/usr/bin/env python3
"""Tests of verification.py with stand-ins for every program that it runs: no GPU, no compute-sanitizer. Those of what the real
`sdpa` says need `cargo build --release -p harness`."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True  # no folder beside the scripts
import verification

PROGRAM = str(verification.ROOT / "target/release/sdpa")
FAILED = "**Something failed here.**"
# Runs under the sanitizer's tools: v2d's stand-in takes every case, v1's no bf16 and not the widest.
V2D = len(verification.TOOLS) * len(verification.SANITIZED)
V1 = len(verification.TOOLS) * sum("d256" not in case and "bf16" not in case for case in verification.SANITIZED)
ALL = V1 + V2D
WIDE = "h2 q70 kv193 d256 f16 full normal seed=3"  # a case that v1 does not take
RAGGED = "h2 L300 d64 f16 causal normal seed=3"
LONG = "b2 h8 L2048 d128 bf16 causal normal seed=3"
ERROR = "relative Frobenius error 2.00e-4 (limit 6.31e-4), largest absolute error 9.71e-4 (45 % of its bound)"

# As the real ones speak; a test's own commands, which may print and exit, come in before they start or after the work.
SDPA = """
[ "$SDPA_DEVICE" = cuda ] || { echo "error: asked to run on ${SDPA_DEVICE:-anything}" >&2; exit 2; }
[ "$1 $2" = "list --json" ] && { echo '[{"id": "v1", "parent": null}, {"id": "v2d", "parent": "v2c"}]'; exit; }
again=1; [ "$4" = --repeat ] && again=$5
$BEFORE
echo "device: NVIDIA H200 (132 multiprocessors)"
echo "case: b1 $3"
case "$2 $3" in
    v1*d256*) echo "error: v1 takes head_dim up to 128; this problem has 256" >&2; exit 2 ;;
    v1*bf16*) echo "error: v1 has no bf16 kernel" >&2; exit 2 ;;
esac
echo "plan: $2/f16_d64 grid 8 block 256 shared 0"
$AFTER
echo "ok: $ERROR, log-sum-exp rms 5.3e-8; the same bits in $((again + 1)) runs"
"""
SANITIZER = """
echo "========= COMPUTE-SANITIZER"
tool=$2; shift 4
"$@"; code=$?
$AFTER
[ "$tool" = racecheck ] && echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ||
    echo "========= ERROR SUMMARY: 0 errors"
exit $code
"""
SUITE = """
[ "$SDPA_DEVICE" = cuda ] && [ -e "$INSTA_WORKSPACE_ROOT/crates/harness/tests/suite/snapshots" ] || exit 3
echo "running 2 tests"
$BEFORE
echo "v1::real_model: MiniLM's first layer, error full 0.97 × ideal (on NVIDIA H200)"
echo "v1::matches_reference: 256 cases on NVIDIA H200; declined: 30 × head_dim over 128"
$AFTER
echo "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 72.88s"
"""
SMI = """
echo "name, driver_version"
echo "NVIDIA H200, 580.159.04"
"""
DIFFERS = """{ echo "$2 fails matches_reference on NVIDIA H200 (132 multiprocessors)
  case       b1 $3
  a second run of the same input differs: out[b0 h1 i2 d3] is 1e0, was 2e0; 3 of 512 rows differ
  look at    ownership of rows: a race, or a read of what is not this row's
  repeat     cargo run --release -p harness -- verify $2 \\"$3\\""; exit 1; }"""
REASON = "a second run of the same input differs: out[b0 h1 i2 d3] is 1e0, was 2e0; 3 of 512 rows differ"


def stand_in(script, before="", after="", start="#!/bin/sh"):
    script = script.replace("$BEFORE", before).replace("$AFTER", after).replace("$ERROR", ERROR)
    return f"{start}\n{script}"


class Pages(unittest.TestCase):
    def verify(self, *words, **programs):
        """The exit status, the page and what was said to standard error, with other stand-ins than the usual ones; None is
        a program that is not there. Nothing outside of the stand-ins' folder is on PATH."""
        usual = {"sdpa": stand_in(SDPA), "suite": stand_in(SUITE), "nvidia_smi": stand_in(SMI)}
        usual["compute_sanitizer"] = stand_in(SANITIZER)
        with tempfile.TemporaryDirectory() as folder:
            for name, script in (usual | programs).items():
                if script is not None:
                    path = Path(folder) / name.replace("_", "-")
                    path.write_text(script)
                    path.chmod(0o755)
            page = Path(folder) / "page.md"
            command = [sys.executable, verification.__file__, "--program", f"{folder}/sdpa", "--suite", f"{folder}/suite"]
            environment = {"PATH": folder, "PYTHONUTF8": "1"}
            done = subprocess.run([*command, "-o", page, *words], capture_output=True, text=True, env=environment)
            self.assertNotIn("Traceback", done.stderr)
            return done.returncode, page.read_text() if page.exists() else None, done.stderr

    def sections(self, page):
        """What follows a title, by the title's first word."""
        return {part.split(maxsplit=1)[0].rstrip(":"): part for part in page.split("\n## ")[1:]}

    def failed(self, page):
        return {title for title, text in self.sections(page).items() if FAILED in text}

    SUITE_TITLE = "`SDPA_DEVICE=cuda"

    def test_a_clean_proof(self):
        code, page, _ = self.verify()
        self.assertEqual((code, self.failed(page)), (0, set()), page)
        self.assertIn("NVIDIA H200, 580.159.04", page)
        suite, sanitizer, bits = self.sections(page).values()
        self.assertIn("exit 0 | test result: ok. 2 passed", suite)
        self.assertIn("v1::real_model: MiniLM's first layer", suite)
        self.assertIn("v1::matches_reference: 256 cases on NVIDIA H200; declined: 30", suite)
        self.assertTrue(sanitizer.startswith(f"compute-sanitizer: {ALL} of {ALL} runs clean\n"), sanitizer)
        self.assertIn(f"\nv1 | memcheck | {RAGGED} | exit 0 | ERROR SUMMARY: 0 errors\n", sanitizer)
        self.assertIn(f"\nv2d | racecheck | {WIDE} | exit 0 | RACECHECK SUMMARY: 0 hazards displayed (0 err", sanitizer)
        self.assertEqual(bits.count("| exit 0 | ok: "), 4)
        self.assertIn(f"\nv2d | {LONG} | exit 0 | ok: {ERROR}, log-sum-exp rms 5.3e-8; the same bits in 101 runs\n", bits)

    def test_only_the_generations_that_are_asked_for(self):
        code, page, _ = self.verify("--generations", "v2d")
        self.assertEqual(code, 0)
        self.assertIn(f"compute-sanitizer: {V2D} of {V2D} runs clean", page)
        self.assertNotIn("\nv1 | ", page)

    def test_what_a_generation_declines_is_said_and_no_failure(self):
        code, page, _ = self.verify()
        self.assertEqual(code, 0)
        line = f"\nv1 | {WIDE} | declined: v1 takes head_dim up to 128; this problem has 256\n"
        self.assertIn(line, self.sections(page)["compute-sanitizer"])
        self.assertNotIn(f"v1 | memcheck | {WIDE}", page)
        self.assertIn(f"\nv1 | {LONG} | declined: v1 has no bf16 kernel\n", self.sections(page)["The"])
        self.assertNotIn("v2d | declined", page)

    def test_a_proof_of_nothing_is_none(self):
        code, page, _ = self.verify(sdpa=stand_in(SDPA.replace("v1*d256*)", "v*)")))
        self.assertEqual((code, self.failed(page)), (1, {"compute-sanitizer", "The"}))
        self.assertIn("compute-sanitizer: 0 of 0 runs clean", page)

    def test_a_case_that_could_not_be_run_is_not_declined(self):
        refused = '{ echo "error: no CUDA driver: libcuda could not be loaded" >&2; exit 2; }'
        for script in (stand_in(SDPA, before=refused), stand_in(SDPA, after=refused)):
            code, page, _ = self.verify(sdpa=script)
            self.assertEqual((code, self.failed(page)), (1, {"compute-sanitizer", "The"}))
            line = f"\nv1 | memcheck | {RAGGED} | exit 2 | ERROR SUMMARY: 0 errors | error: no CUDA driver: libcuda could not"
            self.assertIn(line, page)
            self.assertIn(f"\nv2d | {LONG} | exit 2 | error: no CUDA driver: libcuda could not be loaded\n", page)

    def test_a_finding_of_a_sanitizer(self):
        found = '[ "$tool $3" = "memcheck v1" ] && { echo "========= ERROR SUMMARY: 3 errors"; exit 9; }'
        code, page, _ = self.verify(compute_sanitizer=stand_in(SANITIZER, after=found))
        self.assertEqual((code, self.failed(page)), (1, {"compute-sanitizer"}))
        self.assertIn(f"compute-sanitizer: {ALL - V1 // 4} of {ALL} runs clean", page)
        self.assertIn(f"\nv1 | memcheck | {RAGGED} | exit 9 | ERROR SUMMARY: 3 errors\n", page)
        self.assertIn(f"\nv1 | racecheck | {RAGGED} | exit 0 | RACECHECK SUMMARY: 0 hazards", page)

    def test_a_warning_is_a_finding(self):
        warned = 'echo "========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)"; exit 0'
        code, page, _ = self.verify(compute_sanitizer=stand_in(SANITIZER, after=f'[ "$tool" = racecheck ] && {{ {warned}; }}'))
        self.assertEqual((code, self.failed(page)), (1, {"compute-sanitizer"}))
        self.assertIn(f"compute-sanitizer: {ALL * 3 // 4} of {ALL} runs clean", page)
        self.assertIn(f"| racecheck | {RAGGED} | exit 0 | RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)\n", page)

    def test_a_sanitizer_that_sums_nothing_up_proves_nothing(self):
        code, page, _ = self.verify(compute_sanitizer=stand_in("echo '========= Error: no attachable process found'"))
        self.assertEqual((code, self.failed(page)), (1, {"compute-sanitizer"}))
        self.assertIn(f"compute-sanitizer: 0 of {ALL} runs clean", page)
        self.assertIn(f"| {RAGGED} | exit 0 | Error: no attachable process found\n", page)

    def test_bits_that_differ(self):
        code, page, _ = self.verify(sdpa=stand_in(SDPA, after=f'[ "$2 $again" = "v2d 100" ] && {DIFFERS}'))
        self.assertEqual((code, self.failed(page)), (1, {"The"}))
        self.assertIn(f"\nv2d | {LONG} | exit 1 | {REASON}\n", page)
        self.assertIn("\nv1 | b1 h8 L512 d64 f16 causal normal seed=3 | exit 0 | ok: ", page)

    def test_fewer_runs_than_were_asked_for(self):
        code, page, _ = self.verify(sdpa=stand_in(SDPA.replace("again=$5", "again=2")))
        self.assertEqual((code, self.failed(page)), (1, {"The"}))

    def test_a_wrong_result_under_a_sanitizer_is_told_from_a_finding(self):
        code, page, _ = self.verify(sdpa=stand_in(SDPA, after=f'[ "$2 $again" = "v2d 1" ] && {DIFFERS}'))
        self.assertEqual((code, self.failed(page)), (1, {"compute-sanitizer"}))
        self.assertIn(f"compute-sanitizer: {V1} of {ALL} runs clean", page)
        self.assertIn(f"\nv2d | memcheck | {RAGGED} | exit 1 | ERROR SUMMARY: 0 errors | {REASON}\n", page)

    def test_a_suite_that_fails(self):
        lines = ["test plans::every_generation_plans_as_it_did ... FAILED", "test v1::causal_prefix - should panic ... FAILED"]
        lines += ["test v1::empty_lengths ... ok", "test result: FAILED. 247 passed; 2 failed; 0 ignored"]
        code, page, _ = self.verify(suite=stand_in(SUITE, after="".join(f'echo "{line}"\n' for line in lines) + "exit 101"))
        self.assertEqual((code, self.failed(page)), (1, {self.SUITE_TITLE}))
        self.assertIn("\nexit 101 | test result: FAILED. 247 passed; 2 failed; 0 ignored\n", page)
        self.assertIn("\nfailed: plans::every_generation_plans_as_it_did\nfailed: v1::causal_prefix\nv1::matches_ref", page)
        self.assertNotIn("failed: v1::empty_lengths", page)

    def test_a_suite_without_a_result(self):
        for ending, said in [("kill -ABRT $$", "exit -6 | running 2 tests"), ("exit 0", "exit 0 | running 2 tests")]:
            code, page, _ = self.verify(suite=stand_in(SUITE, before=ending))
            self.assertEqual((code, self.failed(page)), (1, {self.SUITE_TITLE}))
            self.assertIn(f"\n{said}\n", page)

    def test_programs_that_crash(self):
        code, page, _ = self.verify(suite=stand_in(SUITE + "kill -SEGV $$"))
        self.assertEqual((code, self.failed(page)), (1, {self.SUITE_TITLE}))
        self.assertIn("\nexit -11 | test result: ok. 2 passed", page)

        code, page, _ = self.verify(sdpa=stand_in(SDPA + '[ "$again" = 1 ] || kill -SEGV $$'))
        self.assertEqual((code, self.failed(page)), (1, {"The"}))
        self.assertIn(f"\nv2d | {LONG} | exit -11 | ok: ", page)

        code, page, _ = self.verify(sdpa=stand_in(SDPA.replace('case "$2', 'kill -SEGV $$; case "$2')))
        self.assertEqual((code, self.failed(page)), (1, {"compute-sanitizer", "The"}))
        self.assertIn(f"\nv1 | {LONG} | exit -11 | case: b1 {LONG}\n", page)

    def test_programs_that_cannot_be_started(self):
        broken = stand_in("", start="#!/no/such/interpreter")
        code, page, _ = self.verify(suite=broken)
        self.assertEqual((code, self.failed(page)), (1, {self.SUITE_TITLE}))
        self.assertIn("suite cannot be started: No such file or directory", self.sections(page)[self.SUITE_TITLE])

        code, page, _ = self.verify(compute_sanitizer=broken)
        self.assertEqual((code, self.failed(page)), (1, {"compute-sanitizer"}))
        self.assertIn(f"compute-sanitizer: 0 of {ALL} runs clean", page)
        self.assertIn(f"{RAGGED} | exit 127 | compute-sanitizer cannot be started: No such file or directory\n", page)

        code, page, _ = self.verify("--generations", "v1", sdpa=broken)
        self.assertEqual((code, self.failed(page)), (1, {"compute-sanitizer", "The"}))
        self.assertIn("sdpa cannot be started: No such file or directory\n", self.sections(page)["The"])

        code, page, said = self.verify(sdpa=broken)
        self.assertEqual((code, page), (2, None))
        self.assertIn("sdpa cannot be started: No such file or directory", said)

    def test_programs_that_are_not_there(self):
        for missing in ("sdpa", "suite"):
            code, page, said = self.verify(**{missing: None})
            self.assertEqual((code, page), (2, None))
            self.assertIn(f"{missing}: no such program; build it as --help says", said)

        code, page, _ = self.verify(compute_sanitizer=None)
        self.assertEqual((code, self.failed(page)), (1, {"compute-sanitizer"}))
        self.assertIn("not on PATH", self.sections(page)["compute-sanitizer"])

        # Whatever proved the generations had a GPU; only the page's head is poorer.
        code, page, _ = self.verify(nvidia_smi=None)
        self.assertEqual((code, self.failed(page)), (0, set()))
        self.assertIn("nvidia-smi cannot be started: No such file or directory", page)

    def test_a_page_that_could_not_be_written_is_told_before_the_work(self):
        code, page, said = self.verify("-o", "/no/such/folder/page.md")
        self.assertEqual((code, page), (2, None))
        self.assertIn("/no/such/folder: no such folder", said)


class RealProgram(unittest.TestCase):
    """What the stand-ins say, said by `sdpa` on the interpreter."""

    def ask(self, *words):
        return verification.run([PROGRAM, "verify", *words], SDPA_DEVICE="interpreter")

    def test_the_generations_are_those_of_the_list(self):
        entries = json.loads(subprocess.run([PROGRAM, "list", "--json"], capture_output=True, text=True, check=True).stdout)
        self.assertEqual(verification.known(PROGRAM), [entry["id"] for entry in entries])

    def test_a_case_is_declined_or_wrong_or_cannot_be_run(self):
        self.assertEqual(verification.declined(*self.ask("v1", WIDE)), "v1 takes head_dim up to 128; this problem has 256")
        for words in (["v0", WIDE], ["v1", "no case"], ["v1", WIDE, "--property", "none"], ["v1", WIDE, "--repeat", "x"]):
            code, said = self.ask(*words)
            self.assertEqual((code, verification.declined(code, said)), (verification.UNUSABLE, None), said)
        code, said = self.ask("v1", "h1 L9 d64 f16", "--repeat", "2")
        self.assertEqual((code, verification.declined(code, said)), (0, None))
        self.assertRegex(verification.verdict(said), "^ok: .*; the same bits in 3 runs$")

    def test_a_wrong_kernels_reason_is_the_verdict(self):
        code, said = self.ask("no_scale", "h1 L9 d64 f16")
        self.assertEqual(code, 1)
        self.assertRegex(verification.verdict(said), "^output is wrong; .* outside their bound .*; frobenius .*$")


if __name__ == "__main__":
    unittest.main()
