#!/usr/bin/env python3
"""A generator that mends a kernel from the interpreter's findings alone.

    sdpa evolve v2b --from broken.cu --generator "python3 examples/evolve/mend.py" --until-right

It knows no kernel. From each finding it takes the two places, with the lines that lead there, and what is missing; from a wrong result
what it looks like; from the judge's other steps the statement that they name. Each rule makes edits of one statement, each with a cost:
how far it lies from what was found. The cheapest edit that was not tried yet is the answer, and its parent is the candidate that came
farthest.
"""

import json
import re
import sys

# Lines between a barrier and what comes behind it, for it to be the one that a wait belongs to.
NEAR = 12


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

    def is_directive(self, number):
        return self[number].lstrip().startswith("#")

    def first(self, number):
        """The first line of the statement that a line belongs to."""
        while number > 1:
            before = self.code(number - 1).strip()
            if not before or before[-1] in ";{}:" or self.is_directive(number - 1):
                break
            number -= 1
        # A pragma belongs to its loop.
        while self[number - 1].lstrip().startswith("#pragma"):
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

    def function(self, number):
        """The lines of the function, or the class, that a line belongs to."""
        start, end = number, number
        while start > 1 and not re.match(r"\S.*\{$|^\}", self.code(start)):
            start -= 1
        while end < len(self.lines) and not self.code(end).startswith("}"):
            end += 1
        return range(start, end + 1)

    def starts(self, lines):
        """The lines of a range in which a statement begins."""
        return [line for line in lines if self.code(line).strip() and self.first(line) == line and not self.is_directive(line)]

    def inserted(self, number, statements):
        """The text with statements before a line."""
        lines = list(self.lines)
        indent = re.match(r"\s*", self[number]).group()
        lines[number - 1 : number - 1] = [indent + statement for statement in statements]
        return "\n".join(lines)

    def replaced(self, number, line):
        lines = list(self.lines)
        lines[number - 1] = line
        return "\n".join(lines)

    def without(self, numbers):
        return "\n".join(self[line] for line in self.numbers() if line not in numbers)


class Edits:
    """Edits of a kernel: what each changes, why, and what it costs. What several findings ask for costs less."""

    def __init__(self, text):
        self.text = text
        self.found = {}

    def add(self, cost, reason, changed):
        if changed == "\n".join(self.text.lines):
            return
        known, why = self.found.get(changed, (None, reason))
        self.found[changed] = (cost, reason) if known is None else (min(cost, known) - 0.1, why)

    def insert(self, cost, number, statements, why):
        near = [self.text[line].strip() for line in (number - 1, number)]
        if not any(statement in near for statement in statements):
            put, place = " ".join(statements), self.text[number].strip()[:50]
            self.add(cost, f"{why}: `{put}` before line {number}, `{place}`", self.text.inserted(number, statements))

    def swap(self, cost, number, before, after, why):
        """One change at each place in the line."""
        line, code = self.text[number], self.text.code(number)
        for match in re.finditer(before, code):
            changed = line[: match.start()] + match.expand(after) + line[match.end() :]
            self.add(cost, f"{why}: line {number} `{changed.strip()[:60]}`", self.text.replaced(number, changed))

    def cheapest_first(self):
        # Stable: of two that cost the same the one that was found first.
        return [(reason, changed) for changed, (_, reason) in sorted(self.found.items(), key=lambda edit: edit[1][0])]


class Finding:
    """A finding, with the kernel's own lines on the way to each place, the outermost first."""

    def __init__(self, finding, kernel):
        self.kind = finding["kind"]
        self.message = finding["message"]
        self.missing = finding.get("missing") or ""
        self.places = finding.get("places", [])
        ways = [self.way(place, kernel) for place in self.places]
        self.here = ways[0] if ways else []
        self.other = ways[1] if len(ways) > 1 else []
        # What was first, and perhaps still under way.
        self.earlier = self.places[-1]["ptx"] if self.places else ""

    @staticmethod
    def way(place, kernel):
        frames = place.get("frames") or [{"file": place.get("file") or "", "line": place.get("line") or 0}]
        return list(dict.fromkeys(frame["line"] for frame in frames if frame["file"].endswith("/" + kernel)))

    def lines(self):
        return self.here + self.other

    def warps(self):
        return [int(number) for place in self.places for number in re.findall(r"warp (\d+)", place["thread"])]


# What orders, as whole statements.
BARRIER = r"__sync\w*\(\);|\w+_sync\(\w*\);"
WAIT = r"cp_async_wait<[\w \-+*]+>\(\);|[\w.\[\]]+\.wait\(.*\);|[\w.]*(await|wait_|_wait|end_products)\w*(<[\w ]+>)?\([\w, ]*\);"
FENCE = r"[\w.]*begin_products\(\);|[\w.]*fence\w*\([\w, ]*\);"
ARRIVAL = r"[\w.\[\]]+\.(release|arrive)\w*\([\w, ]*\);|[\w.]*commit\w*\(\);"
# What may stand beside a statement that hands something over to others.
HANDS_OVER = r"arriv|ticket|atomic|release|signal|store_async|commit"


def vocabulary(text, pattern):
    """Statements of the kernel that match, once each."""
    statements = [text.code(number).strip() for number in text.numbers()]
    return list(dict.fromkeys(statement for statement in statements if re.fullmatch(pattern, statement)))


def headers(request, pattern):
    """Functions without parameters that the machine's headers have and whose name matches."""
    found = []
    for text in request["vocabulary"].values():
        found += re.findall(r"__device__[^;{(]*\b(" + pattern + r")\(\s*\)", text)
    return [f"{name}();" for name in dict.fromkeys(found)]


def receivers(text, method, path=""):
    """What a method is called on, behind a path such as `shared.`."""
    call = r"(?<![\w.])" + re.escape(path) + r"(\w+)(?:\[[^\]]*\])?\." + method + r"\("
    return re.findall(call, "\n".join(map(text.code, text.numbers())))


def methods(text, pattern):
    """Calls of the kernel's own methods without parameters whose body matches, on whatever its siblings are called on."""
    found = []
    for number in text.numbers():
        named = re.search(r"\bvoid (\w+)\(\) \{", text.code(number))
        if not named:
            continue
        body = " ".join(text.code(line) for line in range(number, text.last(number + 1) + 1))
        if not re.search(pattern, body):
            continue
        siblings = re.findall(r"\bvoid (\w+)\(", "\n".join(text.code(line) for line in text.function(number)))
        owners = [owner for sibling in siblings for owner in receivers(text, sibling)]
        found += [f"{owner}.{named.group(1)}();" for owner in dict.fromkeys(owners)] or [f"{named.group(1)}();"]
    return list(dict.fromkeys(found))


def cousins(text, statements):
    """The same statements of other objects: those that share the object's methods, or the last part of its name."""
    whole = "\n".join(map(text.code, text.numbers()))
    found = []
    for statement in statements:
        member = re.match(r"((?:\w+\.)*)(\w+)((?:\[[^\]]*\])?\.\w+\(.*)", statement)
        if not member:
            continue
        path, name, rest = member.groups()
        called = re.findall(r"\b" + name + r"(?:\[[^\]]*\])?\.(\w+)\(", whole)
        others = [other for method in dict.fromkeys(called) for other in receivers(text, method, path)]
        if "_" in name:
            others += re.findall(r"\b\w+_" + name.rsplit("_", 1)[1] + r"\b", whole)
        found += [path + other + rest for other in dict.fromkeys(others) if other != name]
    return [statement for statement in dict.fromkeys(found) if statement not in statements]


def stems(code):
    """The words in some code, without the plural's s."""
    return {word.rstrip("s") for word in re.findall(r"[a-z]+", code.lower().replace("_", " ")) if len(word) > 2}


def barriers_of(text, lines):
    """Waits for the barriers that some statements name: whatever is initialised like one."""
    whole = "\n".join(map(text.code, text.numbers()))
    code = " ".join(text.code(at) for line in lines for at in range(line, text.last(line) + 1))
    named = re.findall(r"(?:\w+\.)+(\w+)\b(?!\()", code)
    paths = re.findall(r"(?:\w+\.)+\w+\b(?!\()", code)
    return [f"{path}.wait(0);" for name, path in zip(named, paths) if re.search(rf"\b{name}\.initialise\(", whole)]


def owner(statement):
    """The name of what a statement is called on."""
    called = re.match(r"(?:\w+\.)*?(\w+)(?:\[[^\]]*\])?\.\w+\(", statement)
    return called.group(1) if called else ""


def kinship(text, statement, lines):
    """How much of the name of what a statement is called on stands in some lines; more if it is the very name."""
    name = owner(statement)
    own = stems(name) - {"shared", "full", "row"}
    if not own:
        return 0
    kin = [len(own & stems(text.code(line))) + bool(re.search(rf"\b{name}\b", text.code(line))) for line in lines]
    return max(kin, default=0)


def between(text, finding):
    """Where something between two accesses may stand: lines, each with its cost. The ways to both part somewhere; before the access and
    behind the other one is the likeliest place, then the statements between, then what lies deeper."""
    here, other = finding.here, finding.other
    parted = 0
    while parted < min(len(here), len(other)) - 1 and here[parted] == other[parted]:
        parted += 1
    places = {}

    def offer(cost, line):
        line = text.first(line) if 1 <= line <= len(text.lines) else 0
        if line > 0:
            places[line] = min(cost, places.get(line, cost))

    for depth, line in enumerate(here[parted:]):
        offer(0.9 * depth, line)
    for depth, line in enumerate(other[parted:]):
        offer(0.2 + 0.9 * depth, text.last(line) + 1)
    if len(here) > parted and len(other) > parted:
        ends = sorted([text.last(other[parted]) + 1, text.first(here[parted])])
        for line in text.starts(range(ends[0], min(ends[1], ends[0] + 40))):
            offer(0.1 if re.search(HANDS_OVER, text.code(line)) else 2.0, line)
    for line in here[:parted]:
        offer(3.0, line)
    return places


def before_barriers(text, lines):
    """The nearest barrier in front of each line, in the same function."""
    found = []
    for line in lines:
        for number in range(line - 1, max(line - NEAR, text.function(line).start), -1):
            if re.fullmatch(BARRIER, text.code(number).strip()):
                found.append(number)
                break
    return list(dict.fromkeys(found))


def barriers(text, finding):
    """Barriers, the likeliest first: those of fewer threads where these are all that meet."""
    named = vocabulary(text, r"\w+_sync\(\w+\);")
    warpgroups = {warp // 4 for warp in finding.warps()}
    if "of the warp" in finding.missing:
        return ["__syncwarp();", *named, "__syncthreads();"]
    return [*named, "__syncthreads();"] if len(warpgroups) == 1 and named else ["__syncthreads();", *named]


def of_barrier(edits, finding):
    text = edits.text
    if any("wgmma" in place["ptx"] for place in finding.places):
        # What products still read is handed on too early.
        products = methods(text, r"wait") + vocabulary(text, r"[\w.]*(await_|_wait|end_)\w*(<\d+>)?\(\);")
        for line in text.starts(text.numbers()):
            if re.fullmatch(ARRIVAL, text.code(line).strip()) and "commit" not in text.code(line):
                away = min([abs(line - at) for at in finding.lines()] or [0])
                for rank, statement in enumerate(dict.fromkeys(products)):
                    edits.insert(-0.2 + 0.1 * rank + away / 50, line, [statement], why(finding))
    for line, cost in between(text, finding).items():
        for rank, statement in enumerate(barriers(text, finding)):
            edits.insert(cost + 0.5 * rank, line, [statement], why(finding))
    if "wait covers" in finding.message:
        # Each thread has waited for what it copied itself: the barrier belongs right behind that wait.
        waits = [line for line in text.numbers() if re.fullmatch(WAIT, text.code(line).strip())]
        for line in finding.here:
            behind = [wait for wait in waits if wait < line][-2:]
            for wait in behind:
                edits.insert(-0.2, text.last(wait) + 1, ["__syncthreads();"], why(finding))
    if finding.here and finding.here == finding.other:
        own_the_row(edits, finding.here)


def of_wait(edits, finding):
    """A wait: for copies by groups, for a barrier's phase, or for products."""
    text = edits.text
    places = between(text, finding)
    if "wgmma" in finding.earlier:
        asked = methods(text, r"wait") + vocabulary(text, r"[\w.]*(await_|_wait|end_)\w*(<\d+>)?\(\);")
    elif "cp.async.bulk" in finding.earlier or "mbarrier" in finding.earlier:
        asked = vocabulary(text, r"[\w.\[\]]+\.wait\(.*\);")
        asked += barriers_of(text, finding.other) + cousins(text, asked)
        # The wait that stands there may be for the other phase.
        for line in finding.here:
            for before in range(max(1, line - 3), line):
                parity(edits, -2.5, before, finding.kind)
    else:
        asked = ["cp_async_wait<0>();"]
        for line in text.numbers():
            # The nearest wait that comes before the access.
            distance = min([at - line if line <= at else 500 for at in finding.here] or [0])
            edits.swap(-1 + distance / 1000, line, r"(cp_async_wait)<(?!0>)[^>]+>", r"\1<0>", "waits for every copy")
        # What others copied is there behind a barrier behind the wait.
        for line in before_barriers(text, finding.here):
            edits.insert(-0.5, line, asked, why(finding))
        if "barrier must stand" in finding.message:
            for line, cost in places.items():
                edits.insert(cost + 0.4, line, [*asked, "__syncthreads();"], why(finding))
    copied = [at for line in finding.other for at in range(line, text.last(line) + 1)]
    for statement in dict.fromkeys(asked):
        root = re.match(r"\w+", statement).group() if owner(statement) else ""
        kin = kinship(text, statement, finding.here)
        # What started the copy names its barrier.
        started = kinship(text, statement, copied)
        costs = []
        for line, cost in places.items():
            # Where nobody else speaks of it, there is no such thing.
            if root and not any(re.search(rf"\b{root}\b", text.code(other)) for other in text.function(line)):
                continue
            # Right before the line that names what is waited for.
            cost -= 1.2 * min(kin, kinship(text, statement, range(line, text.last(line) + 1)))
            costs.append((cost - 0.4 * kin - 0.8 * started + 0.3, line))
        # Another statement is tried before the same one in a third place.
        for rank, (cost, line) in enumerate(sorted(costs)):
            edits.insert(cost + 0.4 * rank, line, [statement], why(finding))


def of_fence(edits, request, finding):
    text = edits.text
    if "proxy" in finding.missing:
        asked = headers(request, r"\w*async_proxy")
    elif "wgmma" in finding.missing:
        asked = headers(request, r"wgmma_fence") + methods(text, r"wgmma_fence|pin\(") + vocabulary(text, FENCE)
    else:
        asked = ["__threadfence();", *vocabulary(text, FENCE)]
    for line, cost in between(text, finding).items():
        for rank, statement in enumerate(dict.fromkeys(asked)):
            edits.insert(cost + 0.5 * rank, line, [statement], why(finding))
    if "proxy" in finding.missing:
        # By the threads that wrote, right behind what they wrote.
        for depth, line in enumerate(finding.other):
            edits.insert(-0.5 + 0.1 * depth, text.last(line) + 1, asked[:1], why(finding))


def of_release(edits, finding):
    """Other blocks are told of what this one has written: by all its threads, in a scope that holds the others."""
    text = edits.text
    for line in text.numbers():
        code = text.code(line)
        edits.swap(-0.5, line, r"\.cta\b(?!\.b)(?!::)", ".gpu", "a scope that holds both")
        edits.swap(-0.5, line, r"(\batomic\w+|\b__threadfence)_block\b", r"\1", "a scope that holds both")
        if "atom" in code or "red." in code:
            edits.swap(-0.4, line, r"\.relaxed\b", ".acq_rel", "releases and acquires")
        edits.swap(-0.3, line, r"\bld\.relaxed\b", "ld.acquire", "acquires")
        edits.swap(-0.3, line, r"\bst\.relaxed\b", "st.release", "releases")
    for line, cost in between(text, finding).items():
        hands_over = re.search(HANDS_OVER, text.code(line))
        for rank, statement in enumerate(["__syncthreads();", "__threadfence();"]):
            edits.insert(cost + (0 if hands_over else 0.5) + 0.3 * rank, line, [statement], why(finding))


def of_order(edits, request, finding):
    """What is missing between two accesses."""
    if "a release" in finding.missing or "scope" in finding.missing:
        of_release(edits, finding)
    elif "barrier" in finding.missing:
        of_barrier(edits, finding)
    elif "fence" in finding.missing:
        of_fence(edits, request, finding)
    elif "wait" in finding.missing:
        of_wait(edits, finding)
    elif "initiali" in finding.message or "mbarrier" in finding.kind or "uninitialised" in finding.kind:
        for line, cost in between(edits.text, finding).items():
            edits.insert(cost, line, ["__syncthreads();"], "initialised before it is used")
    if "global" in finding.kind or "bounds" in finding.kind or "uninitialised" in finding.kind:
        guards(edits, finding)
    parities(edits, finding, 2.5)


def guards(edits, finding):
    """The edge of what guards an access, among the lines in front of it."""
    text = edits.text
    for line in finding.lines():
        for number in range(line, max(line - NEAR, text.function(line).start), -1):
            if re.search(r"\bif \(", text.code(number)):
                for before, after in COMPARE:
                    edits.swap(0.4 + (line - number) / 20, number, before, after, "the edge of a guard")


def why(finding):
    return f"{finding.kind}, missing {finding.missing}"


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
                    -1.0,
                    f"one owner for what line {line} changes: `{owner} == 0` takes the whole loop of line {number}",
                    text.replaced(number, changed),
                )


def parity(edits, cost, line, kind):
    """The other phase of the barrier that a line waits for."""
    reason = f"{kind}: the other phase"
    edits.swap(cost, line, r"\.wait\(0\)", ".wait(1)", reason)
    edits.swap(cost, line, r"\.wait\(1\)", ".wait(0)", reason)
    edits.swap(cost, line, r"(\.wait\([\w.]+) \^ 1\)", r"\1)", reason)
    edits.swap(cost, line, r"(\.wait\((?!\d)[\w.]+)\)", r"\1 ^ 1)", reason)


def parities(edits, finding, cost):
    """The other phase of a barrier, near what was found first."""
    lines = finding.lines()
    for line in edits.text.numbers():
        # The innermost line on the way to where a thread waits is the wait itself.
        at = cost - 1.0 if line in lines else cost + min([abs(line - other) for other in lines] or [0]) / 1000
        parity(edits, at, line, finding.kind)


def of_deadlock(edits, finding):
    """Something that would have gone on is waited for: an arrival, or the right phase."""
    text = edits.text
    parities(edits, finding, 0.5)
    arrivals = vocabulary(text, ARRIVAL)
    arrivals += cousins(text, arrivals)
    uses = [line for line in text.starts(text.numbers()) if re.search(r"end_products\(\)|\w*wait\w*(<\d+>)?\(|\.tile\(\)", text.code(line))]
    for line in uses:
        behind = text.last(line) + 1
        for statement in arrivals:
            kin = kinship(text, statement, range(max(1, line - 3), behind))
            edits.insert(2.0 - 0.5 * kin, behind, [statement], "what is waited for arrives")


def of_lanes(edits, finding):
    """Lanes that take part are those that are named: all, unless some have gone another way."""
    text = edits.text
    for line in text.numbers():
        cost = 0.0 if line in finding.lines() else 1.5
        edits.swap(cost, line, r"(_sync\()(?!ALL_LANES,)[^,()]+,", r"\1ALL_LANES,", "names the lanes that take part")
        edits.swap(cost + 0.2, line, r"(_sync\()(?!ALL_LANES,)[^,()]+,", r"\1__activemask(),", "names the lanes that take part")
    places = [line for line in finding.lines()]
    for line in places:
        edits.insert(1.0, text.first(line), ["__syncwarp();"], "lanes meet again")


# Comparisons as they are written, with blanks around them: no template's brackets.
COMPARE = [(r" > ", " >= "), (r" >= ", " > "), (r" < ", " <= "), (r" <= ", " < ")]
# What a wrong result looks like → what a line that is to blame speaks of; then any line.
SUSPECTS = [
    (r"key|NaN", [r"visible|\bend\b|\bbegin\b", r"len_kv|\bkeys?\b|key_tile", r"if \("]),
    (r"columns hold", [r"column|lane"]),
    (r"rows (hold|are)", [r"lane|row", r"stage|tile"]),
]


def of_values(edits, words, changed):
    """Comparisons one too far, indices, lanes and stages one off. Lines that the parent changed already are left alone."""
    text = edits.text
    orders = [order for sees, order in SUSPECTS if re.search(sees, words)] or [order for _, order in SUSPECTS[:1]]
    for line in text.numbers():
        code = text.code(line)
        if code.lstrip().startswith(("template", "#", "static_assert", "for (int i = 0", "constexpr")) or line in changed:
            continue
        ranks = [rank for order in orders for rank, suspect in enumerate(order) if re.search(suspect, code)]
        cost = 5.0 + min(ranks, default=3)
        # A mask is where something becomes infinite or 0.
        near = " ".join(text.code(other) for other in range(line, line + 3))
        cost -= 0.5 if re.search(r"NEGATIVE_INFINITY|= 0\.0f", near) else 0
        if re.search(r"\bif \(|\? |\breturn\b|&&|\|\||for \(", code):
            for before, after in COMPARE:
                # A loop that is one too long would show otherwise.
                edits.swap(cost + (1.0 if "for (" in code else 0), line, before, after, "an edge")
        off = cost + 0.5
        edits.swap(off, line, r" [+-] 1\b(?![.\w])", "", "one less or more")
        edits.swap(off, line, r"\((\w+) [+-] 1\)(?= [%/]| \*|\])", r"\1", "one less or more")
        edits.swap(off, line, r"(?<=[(\[ ])(\w+) [+-] 1(?=[,)\];])", r"\1", "one less or more")
        edits.swap(off, line, r" \^ 1\b", "", "one less or more")


def of_unneeded(edits, detail, kernel):
    """Statements whose removal nothing notices are not needed: all that are named at once, then each alone. A wait for too many copies
    waits for one group less."""
    text = edits.text
    lines = []
    for chain, kind in re.findall(r"not noticed: (\S.*): ([^:\n]+)$", detail, re.M):
        own = [int(number) for number in re.findall(r"kernels/" + re.escape(kernel) + r":(\d+)", chain)]
        # The statement's own place, or a call that is nothing but it.
        is_its_own = re.match(r"kernels/" + re.escape(kernel), chain)
        for line in own[:1]:
            code = text.code(line).strip()
            if "one more group" in kind:
                edits.swap(0.0, line, r"wait<0>", "wait<1>", "waits for one group less")
                edits.swap(0.0, line, r"wait<([^>]*[^>\d][^>]*|[1-9]\d*)>", r"wait<\1 + 1>", "waits for one group less")
            elif code.endswith(";") and (is_its_own or any(re.fullmatch(pattern, code) for pattern in (WAIT, FENCE, BARRIER, ARRIVAL))):
                lines.append(line)
    lines = list(dict.fromkeys(lines))
    for rank, some in enumerate([lines] * bool(lines) + [[line] for line in lines]):
        names = ", ".join(f"line {line}, `{text[line].strip()[:40]}`" for line in some)
        edits.add(0.1 + rank, f"nothing needs {names}", text.without(some))


def changed_lines(request):
    """Lines that the parent's own rationale names."""
    parent = request["parent"]["id"]
    rationale = " ".join(one["rationale"] for one in request["tried"] if one["id"] == parent)
    return {int(number) for number in re.findall(r"line (\d+)", rationale)}


def answer(request):
    parent = request["parent"]
    kernel = parent["kernel"]
    text = Text(parent["files"][kernel])
    edits = Edits(text)
    failure = parent.get("failure")
    if not failure:
        return {"done": True}
    step = failure["step"]
    for finding in (Finding(finding, kernel) for finding in failure["findings"]):
        if finding.kind in ("deadlock", "livelock"):
            of_deadlock(edits, finding)
        elif finding.kind in ("divergent shuffle", "divergent barrier"):
            of_lanes(edits, finding)
        elif finding.kind != "wrong result":
            of_order(edits, request, finding)
    if step["name"] in ("mutants", "mutation"):
        of_unneeded(edits, step["detail"], kernel)
    else:
        looks = " ".join(re.findall(r"looks like ([^\n]*)", step["detail"]))
        of_values(edits, looks, changed_lines(request))
    tried = {one["rationale"] for one in request["tried"] if parent["id"] in one["parents"]}
    for reason, changed in edits.cheapest_first():
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
