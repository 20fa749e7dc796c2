#!/usr/bin/env python3
"""Tests of two_gpus.py with stand-ins for sdpa, PyTorch and nvidia-smi: no GPU."""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True  # no folder beside the scripts
import two_gpus

# Ranks beat as long as they live, into the folder where all stand-ins run; rank 0 looks whether rank 1 does. BEHAVIOUR says what goes wrong.
SDPA = r'''#!{python}
import json, os, sys, time
from pathlib import Path
words, folder, behaviour = sys.argv[1:], Path({folder!r}), os.environ.get("BEHAVIOUR", "")
with open(folder / "asked", "a") as asked:
    asked.write(" ".join(words) + "\n")
def value(name):
    return words[words.index(name) + 1]
if "RANK" in os.environ:
    rank, beat = int(os.environ["RANK"]), folder / ("beat" + value("--repeats") + os.environ["MASTER_PORT"])
    if rank == 0:
        print("2 processes, NCCL 2.0.0", flush=True)
        while not beat.exists():
            time.sleep(0.01)
        pid = int(beat.read_text())
        if behaviour == "early":
            sys.exit(2)
        while time.time() - beat.stat().st_mtime < 0.5:
            time.sleep(0.02)
        if behaviour == "hang":
            time.sleep(600)
        state = Path("/proc/%d/stat" % pid).read_text().rsplit(")")[-1].split()[0]
        word = "rank 1 was expected and did not answer" if state == "T" else "rank 1 is gone"
        if behaviour == "nameless":
            word = "something is wrong"
        (folder / "given-up").write_text("")
        sys.exit("error: rank 0 waited: " + word if behaviour != "happy" else 0)
    while not (folder / "given-up").exists():
        beat.with_suffix(".part").write_text(str(os.getpid()))
        beat.with_suffix(".part").replace(beat)
        time.sleep(0.05)
    sys.exit("error: rank 0 failed" if behaviour != "unwoken" else time.sleep(600))
if behaviour == "slow" and value("--shape").startswith("9,"):
    time.sleep(600)
figures = [{{"way": "ring", "seconds": 0.1}}]
Path(value("--json")).write_text(json.dumps(figures))
if behaviour == "wrong":
    print("rank 1 is wrong, so nothing is timed")
    sys.exit(1)
print("ring on 2: 100 ms")
'''

TORCH = r'''#!{python}
import sys
print("W1130 PyTorch's own words")
print('{{"backend": "flash", "rotate": "allgather", "causal": %s, "seconds": 0.2}}' % str("--causal" in sys.argv).lower(), flush=True)
if "--causal" not in sys.argv:
    print('{{"backend": "flash", "rota', end="", flush=True)
'''

SMI = "#!/bin/sh\necho 'name, driver_version'\n"


class Sittings(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name, text in (("sdpa", SDPA), ("torch", TORCH), ("nvidia-smi", SMI)):
            path = self.folder / name
            path.write_text(text.format(python=sys.executable, folder=str(self.folder)) if name != "nvidia-smi" else text)
            path.chmod(0o755)

    def sit(self, behaviour="", **others):
        flags = {"sdpa": self.folder / "sdpa", "python": self.folder / "torch", "out": self.folder / "out", "shape": "9,1,1,1",
                 "deadline": 1, "settle": 0.4, "limit": 60} | others
        (self.folder / "given-up").unlink(missing_ok=True)
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        path = {"PATH": f"{self.folder}:{os.environ['PATH']}", "BEHAVIOUR": behaviour}
        said = io.StringIO()
        with mock.patch.dict(os.environ, path), contextlib.redirect_stdout(said):
            code = two_gpus.sit(two_gpus.parse(words))
        return code, said.getvalue()

    def found(self, name):
        return json.loads((self.folder / "out" / f"{name}.json").read_text())

    def test_every_step_leaves_its_files_and_is_not_done_twice(self):
        # Rank 1 of the second interrupted pair must not find that the first one was given up.
        real = two_gpus.Sitting.lost
        forgets = lambda sitting, *asked: ((self.folder / "given-up").unlink(missing_ok=True), real(sitting, *asked))
        with mock.patch.object(two_gpus.Sitting, "lost", forgets):
            code, said = self.sit()
        self.assertEqual(code, 0, said)
        steps = [step["step"] for step in self.found("sitting")]
        bits = [f"bits-{way}-{mask}" for mask in ("causal", "full") for way in ("ring", "heads")]
        expected = ["machine", "ours-causal", "ours-full", "stopped", "killed", "torch-causal", "torch-full", "bits-short", *bits]
        self.assertEqual(steps, expected)
        stopped, killed = self.found("stopped"), self.found("killed")
        self.assertIn("rank 1 was expected", stopped["said"])
        self.assertIn("rank 1 is gone", killed["said"])
        self.assertEqual(stopped["stopped_rank_ended_with"], 1)
        self.assertEqual(self.found("ours-full.figures"), [{"way": "ring", "seconds": 0.1}])
        # A line that is not whole is no figure.
        self.assertEqual([len(self.found(f"torch-{mask}.figures")) for mask in ("causal", "full")], [1, 1])
        asked = (self.folder / "asked").read_text().splitlines()
        hundred = [line for line in asked if "--repeats 100" in line]
        self.assertEqual([("--way ring" in line, "--causal" in line) for line in hundred[1:]],
                         [(True, True), (False, True), (True, False), (False, False)])
        self.assertIn("--both", hundred[0])
        code, said = self.sit()
        self.assertEqual((code, said), (0, ""))
        self.assertEqual((self.folder / "asked").read_text().splitlines(), asked)

    def test_a_step_that_takes_too_long_is_cut_and_the_rest_is_said_to_be_missing(self):
        code, said = self.sit("slow", limit=6)
        self.assertEqual(code, 2, said)
        outcomes = {step["step"]: step["outcome"] for step in self.found("sitting")}
        self.assertEqual(outcomes["machine"], "done")
        self.assertEqual(outcomes["ours-causal"], "cut short")
        self.assertEqual({outcomes[name] for name in outcomes if name.startswith(("torch", "bits", "killed"))}, {"not run"})

    def lost(self, behaviour, **others):
        """What becomes of the step with a stopped rank alone."""
        others = {"sdpa": self.folder / "sdpa", "out": self.folder / "out", "deadline": 1, "settle": 0.4} | others
        words = [word for name, value in others.items() for word in (f"--{name}", str(value))]
        with mock.patch.dict(os.environ, {"BEHAVIOUR": behaviour}), contextlib.redirect_stdout(io.StringIO()):
            sitting = two_gpus.Sitting(two_gpus.parse(words))
            real = two_gpus.wait
            # Nobody waits a quarter of a minute for a stand-in.
            with mock.patch.object(two_gpus, "wait", lambda process, seconds: real(process, min(seconds, 2.5))):
                sitting.lost("stopped", two_gpus.signal.SIGSTOP)
        return sitting.steps[-1]

    def test_what_a_lost_rank_must_not_do_is_wrong(self):
        for behaviour, why in (
            ("hang", "rank 0 still hangs"),
            ("nameless", "does not name rank 1"),
            ("happy", "rank 0 ended with 0"),
            ("unwoken", "the stopped rank still hangs"),
        ):
            with self.subTest(behaviour):
                (self.folder / "given-up").unlink(missing_ok=True)
                step = self.lost(behaviour, out=self.folder / behaviour)
                self.assertEqual(step["outcome"], "wrong")
                self.assertIn(why, step["why"])
        early = self.lost("early", out=self.folder / "early")
        self.assertEqual((early["outcome"], early["why"]), ("failed", "a rank ended before the signal"))

    def test_a_wrong_result_and_a_missing_program_are_told(self):
        with mock.patch.object(two_gpus.Sitting, "lost", lambda *_: None):
            code, said = self.sit("wrong")
            self.assertEqual(code, 1)
            self.assertIn("ours-causal: wrong, ", said)
            self.assertIn("rank 1 is wrong, so nothing is timed", said)
            code, said = self.sit(sdpa=self.folder / "missing", out=self.folder / "other")
            self.assertEqual(code, 2)
            self.assertIn("ours-causal: failed, ", said)


if __name__ == "__main__":
    unittest.main()
