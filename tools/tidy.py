#!/usr/bin/env python3
"""Style and architecture as a unit test: `tools/tidy.py [ROOT]` prints each departure, exits 1 if any.

Each line reads `file:line: rule: what was found, expected what`. The rank table is the one of ARCHITECTURE.md
in a form that a test can hold code to. tools/tidy_test.py plants every violation and expects it to be found,
so that no rule can quietly stop working.
"""
import ast
import bisect
import os
import re
import sys
from typing import Iterator, NamedTuple

# The house. A folder may include itself and what is named here; nothing else of the project.
RANK = {
    "base": 0,
    "io": 1, "forecast": 1,
    "block": 2, "extent": 2, "policy": 2,
    "nbd": 3, "volume": 3, "backtest": 3,
    "agent": 4, "control": 4,
    "app": 5,
}
MAY_INCLUDE = {
    "base": set(),
    "io": {"base"},
    "forecast": {"base"},
    "block": {"base", "io"},
    "extent": {"base", "io"},
    "policy": {"base", "forecast"},
    "nbd": {"base", "io", "block"},
    "volume": {"base", "io", "block", "extent"},
    "backtest": {"base", "forecast", "policy"},
    "agent": {folder for folder, rank in RANK.items() if rank <= 3},
    "control": {"base", "io", "forecast", "policy"},
    "app": set(RANK) - {"app"},
}
# What may be included as "folder/file.h" from outside src as well.
OUTSIDE_SRC = {"sim", "fuzz", "tests", "bench"}

THREAD_HOMES = {"io", "backtest", "agent", "control", "app", "sim"}
# Third-party and system headers: a pattern for the included name, and where it is at home.
QUARANTINE = [
    (r"(grpcpp|grpc|google/protobuf|foreshadow/v1)/", {"agent", "control", "app"}),
    (r"(liburing|fcntl|unistd|sys/socket|sys/un|netinet/in|arpa/inet)\.h$", {"io", "app"}),
    (r"sys/uio\.h$", {"io", "nbd", "app"}),
    (r"(thread|mutex|shared_mutex|condition_variable|atomic|future|semaphore|latch|barrier|stop_token)$",
     THREAD_HOMES),
    (r"pthread\.h$", THREAD_HOMES),
    (r"(sqlite3|microhttpd)\.h$", {"control"}),
    (r"(rbd|rados)/", {"block"}),
    (r"spdlog/", {"base/log.cc"}),
    (r"isa-l(/|\.h$)", {"base/crc32c.cc"}),
    (r"(lz4|zstd)\w*\.h$", {"volume/squeeze_codec.cc"}),
    (r"gnutls/", {"nbd/tls.cc"}),
]
# Headers that only one file of their folder may include: pattern, folder, fewest files once it has code.
ONE_FILE = [(r"sqlite3\.h$", "control", 1), (r"microhttpd\.h$", "control", 0), (r"(rbd|rados)/", "block", 0)]

CLOCK = re.compile(
    r"\b(?:system|steady|high_resolution)_clock\s*::\s*now\b"
    r"|\busing\s+\w+\s*=\s*(?:std::)?(?:chrono::)?(?:system|steady|high_resolution)_clock\s*;"
    r"|\bclock_gettime\b|\bgettimeofday\b|(?<![\w.>])time\s*\(\s*(?:nullptr|NULL|0)\s*\)")
RANDOM = re.compile(r"\brandom_device\b|(?<![\w.>])s?rand\s*\(|\bgetrandom\s*\(")
CLOCK_HOMES = {"io", "base", "agent", "control", "app"}
NO_REINTERPRET = {"block", "extent", "nbd", "volume", "sim"}
NO_REINTERPRET_FILES = {"src/base/codec.h"}

# Spelled in two halves so that this file does not find itself.
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "manager", "managers", "misc"}

TREES = ("src", "sim", "fuzz", "tests", "bench", "tools")
SUFFIXES = (".h", ".cc", ".py", ".sh", ".cmake")
FILE_LINES_MAX = 600
HEADER_LINES_MAX = 200
FUNCTION_LINES_MAX = 100
COLUMNS_MAX = 110


class Finding(NamedTuple):
    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


class Include(NamedTuple):
    line: int
    name: str
    quoted: bool


# ---- reading C++ ----

TOKEN = re.compile(
    r"""(?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)"""
    r"""|(?P<raw>\b(?:u8|u|U|L)?R"(?P<delimiter>[^()\\\s]{0,16})\(.*?\)(?P=delimiter)")"""
    r"""|(?P<number>\b\d(?:'?[\w.])*)"""  # before characters: 1'000 does not open one
    r"""|(?P<string>"(?:\\.|[^"\\\n])*")"""
    r"""|(?P<character>'(?:\\.|[^'\\\n])+')""", re.DOTALL)


def blank(text: str) -> str:
    """Spaces in place of everything but line ends, so that line numbers stay true."""
    return re.sub(r"[^\n]", " ", text)


def strip(text: str, strings: bool) -> str:
    """The code without comments, and without the contents of strings and characters if `strings`."""
    def replace(match: re.Match) -> str:
        if match["comment"] or (strings and (match["raw"] or match["string"] or match["character"])):
            return blank(match[0])
        return match[0]
    return TOKEN.sub(replace, text)


def includes_of(text: str) -> list[Include]:
    out = []
    for number, line in enumerate(strip(text, strings=False).split("\n"), 1):
        match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if match:
            out.append(Include(number, match[2], match[1] == '"'))
    return out


def without_directives(code: str) -> str:
    """Blanks preprocessor lines and all but the first branch of each #if, which may repeat an open brace."""
    out, skipping, depth, continued = [], [], 0, False
    for line in code.split("\n"):
        directive = None if continued else re.match(r"\s*#\s*(\w*)", line)
        hidden = continued or directive is not None
        if directive:
            if directive[1].startswith("if"):
                depth += 1
            elif directive[1].startswith("el") and depth not in skipping:
                skipping.append(depth)
            elif directive[1] == "endif":
                skipping = [d for d in skipping if d < depth]
                depth -= 1
        continued = hidden and line.endswith("\\")
        out.append("" if hidden or skipping else line)
    return "\n".join(out)


def plain_head(head: str) -> str:
    """A declaration with its template arguments and parenthesised groups taken out; groups become `()`."""
    head = re.sub(r"\boperator\s*(?:\(\s*\)|\[\s*\]|[-+*/%^&|~!=<>,]+)", "operator_", head)
    head = re.sub(r"\[\[.*?\]\]", " ", head, flags=re.DOTALL).replace("->", " returns ")
    for pattern, by in ((r"\([^()]*\)", "\0"), (r"<[^<>()]*>", " ")):
        while re.search(pattern, head):
            head = re.sub(pattern, by, head)
    return head.replace("\0", "()").strip()


def kind_of(head: str) -> str:
    """What a brace opens outside of functions: `container` (look inside), `function` or `values` (skip)."""
    plain = plain_head(head)
    if re.match(r"(inline\s+)?namespace\b|export\b|extern\s*$", plain):
        return "container"
    if "=" in plain:
        return "function" if re.search(r"\]\s*(\(\))?[^=\]]*$", plain.rpartition("=")[2]) else "values"
    called = re.search(r"\(\)\s*((const|noexcept|override|final|try|mutable|constexpr|&|\(\))\s*)*"
                       r"((returns\b|requires\b|(?<!:):(?!:)).*)?$", plain, re.DOTALL)
    if re.search(r"\benum\b", plain) and not called:
        return "values"
    if re.search(r"\b(class|struct|union)\b", plain) and not called:
        return "container"
    return "function" if "()" in plain else "values"


def match_brace(code: str, opening: int) -> int:
    """The offset of the brace that closes the one at `opening`, or -1."""
    depth = 0
    for match in re.compile(r"[{}]").finditer(code, opening):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    return -1


PUNCTUATION = re.compile(r"[{}();:]")
NOT_SPACE = re.compile(r"\S")


def function_bodies(code: str) -> Iterator[tuple[int, int]]:
    """(offset of the opening brace, offset of the closing one) of each outermost function body.

    A heuristic, not a parser: braces are matched, and what stands before one tells a function from a
    namespace, a class or a list of values. Yields (offset, -1) where the braces do not match. `code` is
    without comments, strings and directives.
    """
    head_start, parens, at = 0, 0, 0
    head = ""
    while match := PUNCTUATION.search(code, at):
        at, char = match.end(), match[0]
        if char in "()":
            parens += 1 if char == "(" else -1
        elif char == "{":
            end = match_brace(code, match.start())
            if end < 0:
                yield match.start(), -1
                return
            follows = NOT_SPACE.search(code, end + 1)
            head += code[head_start:match.start()]
            # A value among arguments, or a member's initializer.
            if parens > 0 or (follows and follows[0] in ",{"):
                head, head_start, at = head + " ", end + 1, end + 1
                continue
            kind = kind_of(head)
            if kind == "function":
                yield match.start(), end
            if kind != "container":
                at = end + 1
            head, head_start = "", at
        elif parens == 0 and (char in ";}" or ends_label(code, head_start, match.start())):
            head, head_start = "", at


def ends_label(code: str, head_start: int, colon: int) -> bool:
    return code[colon] == ":" and code[head_start:colon].strip() in ("public", "protected", "private")


# ---- the rules ----

class Source:
    """One file, read once. `path` is relative to the root and uses slashes."""

    def __init__(self, path: str, text: str):
        self.path = path
        self.text = text
        self.lines = text.split("\n")
        if self.lines[-1] == "":
            self.lines.pop()
        parts = path.split("/")
        self.tree = parts[0]
        self.in_src = self.tree == "src" and len(parts) > 2
        # The room that the rules about includes know this file by; sim counts as one more.
        self.room = parts[1] if self.in_src else self.tree
        self.below_src = "/".join(parts[1:])
        self.is_header = path.endswith(".h")
        self.is_cpp = path.endswith((".h", ".cc"))
        self.includes = includes_of(text) if self.is_cpp else []
        self.code = strip(text, strings=True) if self.is_cpp else ""

    def found(self, line: int, rule: str, message: str) -> Finding:
        return Finding(self.path, line, rule, message)

    def each_match(self, pattern: re.Pattern) -> Iterator[tuple[int, str]]:
        for match in pattern.finditer(self.code):
            yield self.code.count("\n", 0, match.start()) + 1, match[0]


def check_include_form(source: Source, include: Include) -> Iterator[Finding]:
    """Project headers are "folder/file.h" and nothing else is in quotes."""
    first = include.name.split("/")[0]
    ours = first in RANK or first in OUTSIDE_SRC
    if include.name.startswith("foreshadow/v1/"):
        return
    if include.quoted and not ours:
        yield source.found(include.line, "include-form", f'"{include.name}" is in no folder of the house, '
                           'expected "folder/file.h" for a project header and <...> for any other')
    elif include.quoted and not re.fullmatch(r"\w+/[\w.]+\.h", include.name) and first in RANK:
        yield source.found(include.line, "include-form", f'"{include.name}", expected "folder/file.h"')
    elif not include.quoted and ours and include.name.endswith(".h"):
        yield source.found(include.line, "include-form", f'<{include.name}>, expected "{include.name}"')


def check_house(source: Source) -> Iterator[Finding]:
    if source.in_src and source.room not in RANK:
        yield source.found(1, "house", f"src/{source.room} is not in the rank table, expected one of "
                           f"{', '.join(RANK)}")
    for include in source.includes:
        yield from check_include_form(source, include)
        target = include.name.split("/")[0] if "/" in include.name else ""
        if source.tree == "src" and target in OUTSIDE_SRC:
            yield source.found(include.line, "house",
                               f"src includes {include.name}, expected nothing of {target}/")
        if not source.in_src or source.room not in RANK or target not in RANK or target == source.room:
            continue
        if target in MAY_INCLUDE[source.room]:
            continue
        mine, theirs = RANK[source.room], RANK[target]
        why = "a sibling" if mine == theirs else "a higher rank" if theirs > mine else "not among its rooms"
        allowed = ", ".join(sorted(MAY_INCLUDE[source.room])) or "nothing"
        yield source.found(include.line, "house", f"{source.room} (rank {mine}) includes {include.name} "
                           f"(rank {theirs}, {why}), expected only {allowed}")


def is_test(source: Source) -> bool:
    name = source.path.rsplit("/", 1)[-1]
    return name.endswith("_test.cc") or name.startswith("test_")


def check_quarantine(source: Source) -> Iterator[Finding]:
    if source.tree not in ("src", "sim"):
        return
    if is_test(source):  # it may be the client at the socket's other end, or the hand that damages a file
        return
    for include in source.includes:
        for pattern, homes in QUARANTINE:
            if re.match(pattern, include.name) and not homes & {source.room, source.below_src}:
                yield source.found(include.line, "quarantine", f"<{include.name}> in {source.room}, expected "
                                   f"only in {', '.join(sorted(homes))}")


def check_one_file(sources: list[Source]) -> Iterator[Finding]:
    for pattern, room, fewest in ONE_FILE:
        inside = [s for s in sources if s.in_src and s.room == room]
        users = [(s, i) for s in inside for i in s.includes if re.match(pattern, i.name)]
        paths = sorted({source.path for source, _ in users})
        for source, include in users:
            if source.path != paths[0]:
                yield source.found(include.line, "quarantine", f"<{include.name}> again, expected in one "
                                   f"file of {room} and {paths[0]} has it")
        if len(paths) < fewest and any(s.path.endswith(".cc") for s in inside):
            yield Finding(f"src/{room}", 1, "quarantine", f"no file includes {pattern}, expected one")


def check_purity(source: Source) -> Iterator[Finding]:
    """Time and randomness come through base and io, where the simulator gives them."""
    if source.tree not in ("src", "sim"):
        return
    if source.room not in CLOCK_HOMES:
        for line, what in source.each_match(CLOCK):
            yield source.found(line, "clock", f"`{what}` in {source.room}, expected io::Executor's time")
        for line, what in source.each_match(RANDOM):
            yield source.found(line, "random", f"`{what}` in {source.room}, expected base/rng.h")
    if source.room in NO_REINTERPRET or source.path in NO_REINTERPRET_FILES:
        for line, what in source.each_match(re.compile(r"\breinterpret_cast\b")):
            yield source.found(line, "reinterpret", f"`{what}` in {source.room}, expected base/codec.h")


def check_unfinished(source: Source) -> Iterator[Finding]:
    for number, line in enumerate(source.lines, 1):
        if match := UNFINISHED.search(line):
            yield source.found(number, "unfinished", f"`{match[0]}`, expected finished work or an issue")


def check_header(source: Source) -> Iterator[Finding]:
    if not source.is_header:
        return
    first = re.search(r"^\s*#[^\n]*", source.code, re.MULTILINE)
    if not first or not re.fullmatch(r"\s*#\s*pragma\s+once\s*", first[0]):
        yield source.found(1, "header", "no `#pragma once`, expected it before any other directive")
    for line, _ in source.each_match(re.compile(r"\busing\s+namespace\b")):
        yield source.found(line, "header", "`using namespace` in a header, expected qualified names")


def function_lines(source: Source) -> Iterator[tuple[int, int]]:
    """(line, number of body lines) of each function; -1 lines where the code could not be followed."""
    if source.is_cpp:
        code = without_directives(source.code)
        starts = [m.start() for m in re.finditer("\n", code)]
        for opening, closing in function_bodies(code):
            line = bisect.bisect_left(starts, opening) + 1
            yield line, -1 if closing < 0 else max(0, bisect.bisect_left(starts, closing) - line)
    elif source.path.endswith(".py") or source.text.startswith("#!/usr/bin/env python3"):
        try:
            nodes = ast.walk(ast.parse(source.text))
        except SyntaxError as error:
            yield error.lineno or 1, -1
            return
        for node in nodes:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node.lineno, (node.end_lineno or node.lineno) - node.body[0].lineno + 1


def check_sizes(source: Source) -> Iterator[Finding]:
    if any("@generated" in line for line in source.lines[:5]):
        return
    limit = HEADER_LINES_MAX if source.is_header and not is_test(source) else FILE_LINES_MAX
    if len(source.lines) > limit:
        yield source.found(limit + 1, "size", f"{len(source.lines)} lines, expected at most {limit}")
    for number, line in enumerate(source.lines, 1):
        if len(line) > COLUMNS_MAX:
            yield source.found(number, "size", f"{len(line)} columns, expected at most {COLUMNS_MAX}")
    for line, length in function_lines(source):
        if length < 0:
            yield source.found(line, "size", "cannot follow the code from here, expected matching braces")
        elif length > FUNCTION_LINES_MAX:
            yield source.found(line, "size",
                               f"function body of {length} lines, expected at most {FUNCTION_LINES_MAX}")


CHECKS = (check_house, check_quarantine, check_purity, check_unfinished, check_header, check_sizes)


def check_names(paths: list[str]) -> Iterator[Finding]:
    """Folders are judged once, not once for each file in them."""
    judged = set()
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            prefix = "/".join(parts[:depth])
            words = re.split(r"[_\-.]", parts[depth - 1].lower())
            if prefix in judged:
                continue
            judged.add(prefix)
            for word in VAGUE_NAMES.intersection(words):
                yield Finding(prefix, 1, "name", f"`{word}` in a name, expected a name that says what it is")


# ---- the walk ----

def all_paths(root: str) -> list[str]:
    out = []
    for tree in TREES:
        for folder, folders, files in os.walk(os.path.join(root, tree)):
            folders[:] = [f for f in folders if f != "__pycache__" and not f.startswith(".")]
            out += [os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/") for name in files]
    return sorted(out)


def read_source(root: str, path: str) -> Source | None:
    """The file, or None where it is not something that people write: test data, a corpus."""
    name = path.rsplit("/", 1)[-1]
    full = os.path.join(root, path)
    if not (name.endswith(SUFFIXES) or name == "CMakeLists.txt" or "." not in name):
        return None
    with open(full, "rb") as file:
        data = file.read()
    if "." not in name and not data.startswith(b"#!"):
        return None
    return Source(path, data.decode("utf-8", errors="replace"))


def check_tree(root: str) -> list[Finding]:
    paths = all_paths(root)
    sources = [source for path in paths if (source := read_source(root, path))]
    found = [finding for source in sources for check in CHECKS for finding in check(source)]
    found += check_one_file(sources)
    found += check_names(paths)
    if not any(source.in_src for source in sources):
        found.append(Finding("src", 1, "tree", "no source file, expected the root of a checkout"))
    return sorted(found)


def main(arguments: list[str]) -> int:
    root = arguments[0] if arguments else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    found = check_tree(os.path.normpath(root))
    for finding in found:
        print(finding)
    print(f"tidy: {len(found)} finding{'' if len(found) == 1 else 's'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
