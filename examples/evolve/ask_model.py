#!/usr/bin/env python3
"""A generator that asks a model through its command line.

    sdpa evolve v3c --generator "python3 examples/evolve/ask_model.py -- MODEL_COMMAND --its --options"

The command reads a prompt from standard input and writes its answer to standard output. The prompt is put together from the question:
task, contract, the parent's kernel, its counts and costs, and as far as the guide tells them elites, insights and failures. The answer's
last block of JSON, of diff or of CUDA is the candidate.
"""

import json
import re
import subprocess
import sys

# Letters of a failure's story.
STORY = 2500


def prompt(request):
    parent = request["parent"]
    kernel = parent["kernel"]
    parts = [
        f"# Task\n{request['task']}",
        f"# Contract\n{request['contract']}",
        f"# Where\nGeneration {request['generation']}, niche {request['niche']}: {request['problem']}. "
        f"{request['budget']['candidates']} candidates are left.",
        f"# The parent, {parent['id']} ({parent['standing']}): kernels/{kernel}\n```cuda\n{parent['files'][kernel]}\n```",
    ]
    others = {path: text for path, text in parent["files"].items() if path != kernel}
    parts += [f"# The parent's kernels/{path}\n```cuda\n{text}\n```" for path, text in others.items()]
    if parent["defines"]:
        parts.append("# The parent's numbers\n" + ", ".join(f"{k}={v}" for k, v in parent["defines"].items()))
    if request["numbers"]:
        numbers = [f"{name}: now {', '.join(n['now'])}; worth trying {', '.join(n['values'])}" for name, n in request["numbers"].items()]
        parts.append("# Numbers that `defines` may change\n" + "\n".join(numbers))
    counts = parent["counters"].get(request["niche"], {})
    if counts:
        parts.append("# What the parent executes\n" + "\n".join(f"{name}: {count}" for name, count in counts.items()))
    for cost in parent["costs"][-1:]:
        parts.append(
            f"# What it costs on {cost['architecture']}\n{cost['registers']} registers, {cost['spill_bytes']} bytes spilled, "
            f"{cost['dynamic_shared_bytes']} bytes of shared memory, {cost['blocks_per_multiprocessor']} blocks per multiprocessor"
        )
    names = ", ".join(sorted(request["vocabulary"]))
    parts.append(f"# Headers that it may include\n{names}")
    for header in re.findall(r'#include "(machine/[\w./]+)"', parent["files"][kernel]):
        parts.append(f"## kernels/{header}\n```cuda\n{request['vocabulary'].get(header, '')}\n```")
    for elite in request["elites"]:
        parts.append(f"# A good one: {elite['id']}, {elite['gain']['ratio']:.3f} times the first\n{elite['rationale']}\n```diff\n{elite['diff']}```")
    for insight in request["insights"]:
        says = f"supported by {len(insight['supported_by'])}, contradicted by {len(insight['contradicted_by'])}"
        parts.append(f"# Insight {insight['id']} ({says})\n{insight['text']}")
    failures = request["failures"]
    if parent.get("failure") and parent["failure"] not in failures:
        failures = [parent["failure"]] + failures
    for failure in failures:
        step = failure["step"]
        parts.append(f"# {failure['id']} failed at {step['name']}\n{failure['rationale']}\n{step['detail'][:STORY]}")
    parts.append(
        "# Answer\nSay in one line why it should be better, after `rationale:`. If you learned something, one line after `insight:`. Then one "
        f"block: ```diff against a/kernels/{kernel}, or ```cuda with the whole kernel, or ```json as the task says."
    )
    return "\n\n".join(parts) + "\n"


def proposal(text, kernel):
    """What a model's answer proposes."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    said = {key: match.group(1).strip() for key in ("rationale", "insight") if (match := re.search(rf"(?mi)^{key}: *(.+)$", text))}
    found = {"rationale": said.get("rationale", text.strip().split("\n")[0][:200])}
    if "insight" in said:
        found["insight"] = {"text": said["insight"]}
    for kind, block in reversed(blocks):
        if kind == "json":
            try:
                return {**found, **json.loads(block)}
            except ValueError:
                continue
        if kind in ("diff", "patch"):
            return {**found, "diff": block}
        if kind in ("cuda", "cpp", "c", "cu"):
            return {**found, "files": {kernel: block}}
    # The judge rejects it in words that the next prompt repeats.
    return {**found, "rationale": "no block of diff, cuda or json in the answer: " + found["rationale"]}


def main():
    if "--" not in sys.argv or not sys.argv[sys.argv.index("--") + 1 :]:
        sys.exit("ask_model.py: name the model's command: python3 ask_model.py -- COMMAND …")
    command = sys.argv[sys.argv.index("--") + 1 :]
    for line in sys.stdin:
        request = json.loads(line)
        asked = subprocess.run(command, input=prompt(request), stdout=subprocess.PIPE, text=True, check=False)
        if asked.returncode != 0:
            sys.exit(f"ask_model.py: {command[0]} ended with exit code {asked.returncode}")
        print(json.dumps(proposal(asked.stdout, request["parent"]["kernel"])), flush=True)


if __name__ == "__main__":
    main()
