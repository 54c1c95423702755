#!/usr/bin/env python3
"""Holds docs/nbd-conformance.md to the sources: its numbers are complete, its tests exist.

    tests/nbd_conformance_test.py [PROTO.md]

With the protocol's text, each row's word and heading are compared with the occurrence that it stands for. The
page is also spoiled in every way that this is to notice, so that the check cannot quietly stop working.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "nbd-conformance.md"
OCCURRENCES = 239
ROW = re.compile(r"\| (\d+) \| (MUST(?: NOT)?) \| ([^|]+) \| ([^|]+) \|")
NAME = re.compile(r"`(\w+\.\w+)`")
WORD = re.compile(r"MUST(\s+NOT)?")


def rows_of(page):
    """(number, heading, word, demand, checked by) of each row; rows that do not parse are None."""
    heading = ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line[3:].strip()
        elif re.match(r"\| \S*\d", line):
            match = ROW.fullmatch(line)
            yield (int(match[1]), heading, match[2], match[3], match[4]) if match else None


def known_tests():
    """Every test by the name that ctest knows it by, without the label of the unit tests."""
    found = set()
    for path in (ROOT / "src").glob("*/*_test.cc"):
        text = path.read_text(encoding="utf-8")
        found.update(".".join(names) for names in re.findall(r"\bTEST(?:_F|_P)?\((\w+),\s*(\w+)\)", text))
    for folder in ("tests", "sim"):
        text = (ROOT / folder / "CMakeLists.txt").read_text(encoding="utf-8")
        found.update(re.findall(r"\bNAME (\w+\.\w+)", text))
        for label, names in re.findall(r"process_tests\((\w+) \S+ \d+([\w\s]+)\)", text):
            found.update(f"{label}.{name}" for name in names.split())
    return found


def findings_in(page, tests):
    rows = list(rows_of(page))
    if None in rows:
        yield "a row that is not | number | word | demand | checked by |"
    rows = [row for row in rows if row is not None]
    if [row[0] for row in rows] != list(range(1, OCCURRENCES + 1)):
        yield f"{len(rows)} rows whose numbers are not 1 to {OCCURRENCES} in order"
    without = 0
    for number, _, _, _, by in rows:
        names = NAME.findall(by)
        without += not names
        for name in names:
            if name not in tests:
                yield f"row {number}: no test is named {name}"
    stated = re.search(r"Of (\d+) rows (\d+) name a test; (\d+) do not", page)
    if not stated or [int(n) for n in stated.groups()] != [len(rows), len(rows) - without, without]:
        yield f"the head's sum is not {len(rows)} rows, {len(rows) - without} with a test, {without} without"


def differences(page, text):
    headings = [(m.start(), m[1].strip("# ")) for m in re.finditer(r"^#+ (.*)$", text, re.MULTILINE)]
    wanted = [([name for at, name in headings if at < m.start()][-1], "MUST NOT" if m[1] else "MUST")
              for m in WORD.finditer(text)]
    told = [(row[1], row[2]) for row in rows_of(page) if row]
    if len(wanted) != OCCURRENCES:
        yield f"the text has {len(wanted)} occurrences, the page is about {OCCURRENCES}"
    for number, (theirs, ours) in enumerate(zip(wanted, told), 1):
        if theirs != ours:
            yield f"row {number} is {ours}, the text has {theirs}"


def spoiled(page):
    """The page in each state that must not pass."""
    lines = page.splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if ROW.match(line))
    yield "a row is missing", "".join(lines[:first] + lines[first + 1:])
    yield "a row is there twice", "".join(lines[:first] + [lines[first]] + lines[first:])
    yield "rows in another order", "".join(lines[:first] + lines[first:first + 2][::-1] + lines[first + 2:])
    yield "a test that does not exist", page.replace("`NbdSession.", "`NbdSessions.", 1)
    yield "a row without its reason", page.replace("| defines a word |", "|  |", 1)
    yield "a wrong sum", re.sub(r"rows \d+ name", "rows 1 name", page)


def main():
    page, tests = PAGE.read_text(encoding="utf-8"), known_tests()
    found = list(findings_in(page, tests))
    found += [f"not noticed: {what}" for what, text in spoiled(page) if not list(findings_in(text, tests))]
    if len(sys.argv) > 1:
        found += differences(page, pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    for finding in found:
        print(f"docs/nbd-conformance.md: {finding}")
    print(f"nbd conformance: {len(found)} findings, {len(tests)} tests known")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
