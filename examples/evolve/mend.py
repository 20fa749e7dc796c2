#!/usr/bin/env python3
"""A generator that mends a kernel from the interpreter's findings alone.

    sdpa evolve v2b --from broken.cu --generator "python3 examples/evolve/mend.py" --until-right

It knows no kernel. From each finding it takes the two places, with the lines that lead there, and what is missing; from a wrong result
what it looks like; from the judge's other steps the statement that they name. Each rule makes edits of one statement. The first edit
that was not tried yet is the answer, and its parent is the candidate that came farthest.
"""

import json
import re
import sys

MOST_EDITS = 60


class Text:
    """A kernel's lines, counted from 1."""

    def __init__(self, text):
        self.lines = text.split("\n")

    def __getitem__(self, number):
        return self.lines[number - 1] if 1 <= number <= len(self.lines) else ""

    def numbers(self):
        return range(1, len(self.lines) + 1)

    def code(self, number):
        return self[number].split("//")[0]

    def first(self, number):
        """The first line of the statement that a line belongs to."""
        while number > 1:
            before = self.code(number - 1).strip()
            if not before or before[-1] in ";{}:" or before.startswith("#"):
                break
            number -= 1
        return number

    def last(self, number):
        """The last line of the statement that begins or goes on at a line."""
        while number < len(self.lines):
            code = self.code(number).rstrip()
            if code and code[-1] in ";{}":
                break
            number += 1
        return number

    def indent(self, number):
        return re.match(r"\s*", self[number]).group()

    def inserted(self, number, statement):
        """The text with a statement before a line."""
        lines = list(self.lines)
        lines.insert(number - 1, self.indent(number) + statement)
        return "\n".join(lines)

    def replaced(self, number, line):
        lines = list(self.lines)
        lines[number - 1] = line
        return "\n".join(lines)

    def without(self, number):
        lines = list(self.lines)
        del lines[number - 1]
        return "\n".join(lines)


class Edits:
    """Edits of a kernel, each with its reason, the likeliest first."""

    def __init__(self, text):
        self.text = text
        self.found = []

    def add(self, reason, changed):
        if changed != "\n".join(self.text.lines) and all(changed != other for _, other in self.found):
            self.found.append((reason, changed))

    def insert(self, number, statement, why):
        near = [self.text[line].strip() for line in (number - 1, number)]
        if statement not in near:
            place = self.text[number].strip()[:50]
            self.add(f"{why}: `{statement}` before line {number}, `{place}`", self.text.inserted(number, statement))

    def swap(self, number, before, after, why):
        """One change at each place in the line."""
        line = self.text[number]
        for match in re.finditer(before, line):
            put = after(match) if callable(after) else match.expand(after)
            changed = line[: match.start()] + put + line[match.end() :]
            self.add(f"{why}: line {number} `{changed.strip()[:60]}`", self.text.replaced(number, changed))


def lines_of(place, kernel):
    """The kernel's own lines on the way to an access, the outermost first."""
    frames = place.get("frames") or [{"file": place.get("file") or "", "line": place.get("line") or 0}]
    found = [frame["line"] for frame in frames if frame["file"].endswith("/" + kernel)]
    return list(dict.fromkeys(found))


def vocabulary(text, pattern):
    """Statements of the kernel that match, once each."""
    found = []
    for number in text.numbers():
        statement = text.code(number).strip()
        if re.fullmatch(pattern, statement) and statement not in found:
            found.append(statement)
    return found


WAIT = r"(cp_async_wait<\d+>\(\)|[\w.]+\.wait\([\w, ]*\)|[\w.]*end_products\(\)|[\w]*wait\w*(<\d+>)?\([\w, ]*\));"
FENCE = r"([\w.]*begin_products\(\)|[\w]*fence\w*\([\w, ]*\));"
ARRIVAL = r"([\w.]+\.(release|arrive)\w*\([\w, ]*\)|[\w]*commit\w*\(\));"


def headers(request, pattern):
    """Functions without parameters that the machine's headers have and whose name matches."""
    found = []
    for text in request["vocabulary"].values():
        found += re.findall(r"__device__[^;{(]*\b(" + pattern + r")\(\s*\)", text)
    return [f"{name}();" for name in dict.fromkeys(found)]


def of_order(edits, request, finding, kernel):
    """What is missing between two accesses."""
    text = edits.text
    missing = finding.get("missing") or ""
    places = [lines_of(place, kernel) for place in finding.get("places", [])]
    here = places[0] if places else []
    other = places[1] if len(places) > 1 else []
    # Where the ways to both accesses part is where something can stand between them; the earlier of the two lines comes first, since a
    # loop comes back to it.
    shared = 0
    while shared < min(len(here), len(other)) - 1 and here[shared] == other[shared]:
        shared += 1
    parted = sorted(way[shared] for way in (here, other) if len(way) > shared)
    rest = [line for line in here + other if line not in parted]
    before = [text.first(line) for line in parted + rest]
    after = [text.last(line) + 1 for line in other + here]
    if "wait covers" in finding["message"]:
        # Each thread has waited for what it copied itself: the barrier belongs right behind that wait.
        waits = [line for line in text.numbers() if re.fullmatch(WAIT, text.code(line).strip())]
        for line in here[1:] + here[:1]:
            behind = sorted((wait for wait in waits if wait < line), reverse=True)[:3]
            before = [text.last(wait) + 1 for wait in behind] + before
    if here and here == other:
        own_the_row(edits, here)
    asked = []
    if "barrier of the warp" in missing:
        asked = ["__syncwarp();", "__syncthreads();"]
    elif "barrier" in missing:
        asked = ["__syncthreads();"] + vocabulary(text, r"\w+_sync\(\w*\);")
    elif "proxy" in missing:
        asked = headers(request, r"\w*async_proxy") + vocabulary(text, FENCE)
    elif "wgmma.fence" in missing:
        asked = vocabulary(text, FENCE)
    elif "wait" in missing:
        weaker = [line for line in text.numbers() if re.search(r"wait<[1-9]\d*>\(\)", text.code(line))]
        for line in sorted(weaker, key=lambda line: min([abs(line - at) for at in here + other] or [0])):
            edits.swap(line, r"wait<\d+>\(\)", "wait<0>()", "waits for every copy")
        asked = ["cp_async_wait<0>();"] if "cp_async" in "\n".join(text.lines) else []
        asked = vocabulary(text, WAIT) + asked
        # A wait that stands behind its use is of no use.
        asked += ["__syncthreads();"]
    elif "fence" in missing or "release" in missing:
        asked = ["__threadfence();"] + vocabulary(text, FENCE) + ["__syncthreads();"]
    elif "scope" in missing:
        for line in text.numbers():
            edits.swap(line, r"\.cta\b|_block\b", lambda match: ".gpu" if "." in match.group() else "", "a wider scope")
    for line in dict.fromkeys(before + after):
        for statement in asked:
            edits.insert(line, statement, f"{finding['kind']}, missing {missing}")
    if "initiali" in finding["message"] or "mbarrier" in finding["kind"]:
        for line in dict.fromkeys(before + after):
            edits.insert(line, "__syncthreads();", "initialised before it is used")
    parities(edits, here + other, finding["kind"])


def own_the_row(edits, lines):
    """A statement races with itself: several threads share what it changes, and no barrier orders a line against itself. The loop that
    shares the work out is given to one of them. Ownership beats synchronisation."""
    text = edits.text
    for line in lines:
        for number in range(line, 0, -1):
            loop = re.match(r"(\s*for \(int (\w+) = )(\w+)(; \2 < )(\w+)(; \2 \+= )(\w+)(\).*)", text[number])
            if loop:
                head, _, owner, until, end, step, _, tail = loop.groups()
                changed = f"{head}{owner} == 0 ? 0 : {end}{until}{end}{step}1{tail}"
                edits.add(
                    f"one owner for what line {line} changes: `{owner} == 0` takes the whole loop of line {number}",
                    text.replaced(number, changed),
                )


def parities(edits, lines, why):
    """The other phase of a barrier, near what was found first."""
    text = edits.text
    pattern = r"wait\((0|1)\)|\^ ?1\b|parity|phase"
    suspects = [line for line in text.numbers() if re.search(pattern, text.code(line))]
    for line in sorted(suspects, key=lambda line: min([abs(line - at) for at in lines] or [0])):
        edits.swap(line, r"wait\(0\)", "wait(1)", f"{why}: the other phase")
        edits.swap(line, r"wait\(1\)", "wait(0)", f"{why}: the other phase")
        edits.swap(line, r" ?\^ ?1\b(?!\d)", "", f"{why}: the other phase")
        edits.swap(line, r"(parity|phase)\b(?=[),;])", r"\1 ^ 1", f"{why}: the other phase")


def of_deadlock(edits, finding, kernel):
    """Something that would have gone on is waited for: an arrival, or the right phase."""
    text = edits.text
    lines = [line for place in finding.get("places", []) for line in lines_of(place, kernel)]
    parities(edits, lines, finding["kind"])
    arrivals = vocabulary(text, ARRIVAL)
    waits = [line for line in text.numbers() if re.fullmatch(WAIT, text.code(line).strip())]
    ends = [line for line in text.numbers() if "end_products()" in text.code(line) or "wait_for" in text.code(line)]
    for line in dict.fromkeys([text.last(end) + 1 for end in ends] + [text.last(wait) + 1 for wait in waits]):
        for statement in arrivals:
            edits.insert(line, statement, "what is waited for arrives")


COMPARE = [(r"(?<![<>=!-])>(?![=>])", ">="), (r">=", ">"), (r"(?<![<>=!])<(?![=<])", "<="), (r"<=", "<")]
# What masks, first; then what ends at a length.
SUSPECTS = [r"visible", r"len_kv|keys\b", r"len_q|row", r"head_dim|column", r""]


def of_values(edits, words):
    """Comparisons one too far, lanes and stages one off."""
    text = edits.text
    order = SUSPECTS
    if "columns" in words:
        order = [r"column|lane", r""]
    elif "log-sum-exp" in words or "rows hold" in words:
        order = [r"lane|row", r""]
    for suspect in order:
        for line in text.numbers():
            code = text.code(line)
            if not re.search(suspect, code) or code.lstrip().startswith(("template", "#", "static_assert")):
                continue
            compares = re.search(r"[<>]=?[^<>]*(visible|len_|keys|head_dim|row|\d)", code) and "<<" not in code
            if compares and ("key" in words or "NaN" in words or "missing" in words or not words):
                for before, after in COMPARE:
                    edits.swap(line, before, after, "an edge")
            edits.swap(line, r"\((\w+) [+-] 1\)(?= [%/]| \*|\])", r"\1", "one less or more")
            edits.swap(line, r"\b(\w+) [+-] 1\b(?=[,;)])", r"\1", "one less or more")
            edits.swap(line, r" \^ 1\b", "", "one less or more")


def of_unneeded(edits, detail, kernel):
    """Statements whose removal nothing notices are not needed: all that are named at once, then each alone."""
    text = edits.text
    # The statement's own place, not the calls that lead there.
    lines = [int(number) for number in re.findall(r"not noticed: kernels/" + re.escape(kernel) + r":(\d+)", detail)]
    lines = [line for line in dict.fromkeys(lines) if text.code(line).strip().endswith(";")]
    for some in [lines] + [[line] for line in lines]:
        without = "\n".join(text[line] for line in text.numbers() if line not in some)
        names = ", ".join(f"line {line}, `{text[line].strip()[:40]}`" for line in some)
        edits.add(f"nothing needs {names}", without)


def answer(request):
    parent = request["parent"]
    kernel = parent["kernel"]
    text = Text(parent["files"][kernel])
    edits = Edits(text)
    failure = parent.get("failure")
    if not failure:
        return {"done": True}
    step = failure["step"]
    for finding in failure["findings"]:
        if finding["kind"] in ("deadlock", "livelock"):
            of_deadlock(edits, finding, kernel)
        elif finding["kind"] != "wrong result":
            of_order(edits, request, finding, kernel)
    if step["name"] in ("mutants", "mutation"):
        of_unneeded(edits, step["detail"], kernel)
    else:
        looks = " ".join(re.findall(r"looks like ([^\n]*)", step["detail"]))
        of_values(edits, looks)
    tried = {one["rationale"] for one in request["tried"] if parent["id"] in one["parents"]}
    for reason, changed in edits.found[:MOST_EDITS]:
        if reason not in tried:
            return {
                "files": {kernel: changed},
                "rationale": reason,
                "insight": {"text": f"{step['name']}: {reason.split(':')[0]}"},
            }
    return {"done": True}


def main():
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
