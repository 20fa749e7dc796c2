"""What pages show is what runs: Python's blocks are run, and lines of others stand in the file that the page names."""

import os
import pathlib
import re
import unittest

import evo_sdpa

ROOT = pathlib.Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def missing(name):
    try:
        __import__(name)
    except ImportError:
        return True
    return False


@unittest.skipUnless(os.environ.get("SDPA_DEVICE") == "interpreter", "it needs SDPA_DEVICE=interpreter")
class Pages(unittest.TestCase):
    def run_python(self, page, least):
        ran, blocks = 0, [block for language, block in BLOCK.findall((ROOT / page).read_text()) if language == "python"]
        for block in blocks:
            needs = [name for name in ("torch", "transformers") if f"import {name}" in block]
            if any(map(missing, needs)):
                continue
            # The same on the CPU, where the kernels are interpreted.
            exec(compile(block.replace('"cuda"', '"cpu"'), page, "exec"), {})
            ran += 1
        self.assertGreaterEqual(len(blocks), least)
        if ran < len(blocks):
            self.skipTest(f"PyTorch or transformers is not installed: {ran} of {len(blocks)} blocks ran")

    def test_python_of_the_readme(self):
        self.run_python("python/README.md", 2)

    def test_python_of_the_page(self):
        self.run_python("docs/programs.md", 2)

    def test_other_languages_of_the_page(self):
        text = (ROOT / "docs/programs.md").read_text()
        blocks = 0
        for section in text.split("\n## ")[1:]:
            for language, block in BLOCK.findall(section):
                # Python's blocks are run; a console's are commands to build with.
                if language in ("python", "console"):
                    continue
                (name,) = re.findall(r"^From \[[\w.]+\]\(\.\./([^)]+)\)", section, re.M)
                source = re.sub(r"^\s*//! ", "", (ROOT / name).read_text(), flags=re.M)
                lines = {line.strip() for line in source.splitlines()}
                for line in block.splitlines():
                    self.assertIn(line.strip(), lines, f"{name} has no such line")
                blocks += 1
        self.assertEqual(blocks, 4)

    def test_every_function_is_shown(self):
        readme = (ROOT / "python/README.md").read_text()
        for name in evo_sdpa.__all__:
            if not name.startswith("__"):
                self.assertIn(f"`{name}(", readme)


if __name__ == "__main__":
    unittest.main()
