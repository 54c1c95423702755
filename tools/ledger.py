#!/usr/bin/env python3
"""The ledger of what was run to prove the engine: docs/reliability-ledger.jsonl, a line a run, never edited.

    tools/ledger.py run sim -- build/release/sim/foreshadow-sim --seeds 1000 --start 5
        runs it and notes what its last line of output, a JSON object, counts
    tools/ledger.py add --harness kill9 --command '...' --seconds 60 --violations 0 --count kills=100
        notes what was run otherwise

Every line carries the commit, and a digest of the engine's sources: a figure counts for the tree whose engine
is the same. docs/reliability.md shows the ledger; tools/reliability writes that page.
"""
import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LEDGER = os.path.join(ROOT, "docs", "reliability-ledger.jsonl")
# What the figures are about: a change elsewhere does not make them stale.
ENGINE = ("src/block", "src/extent", "src/io", "src/nbd", "src/volume")


def engine_digest(root=ROOT):
    """Ten hexadecimal digits that change with any source file of the engine, tests aside."""
    digest = hashlib.sha256()
    for folder in ENGINE:
        for at, folders, names in os.walk(os.path.join(root, folder)):
            folders.sort()
            for name in sorted(names):
                if not name.endswith((".h", ".cc")) or name.endswith("_test.cc") or name.startswith("test_"):
                    continue
                path = os.path.join(at, name)
                digest.update(os.path.relpath(path, root).encode() + b"\0")
                with open(path, "rb") as source:
                    digest.update(hashlib.sha256(source.read()).digest())
    return digest.hexdigest()[:10]


def commit():
    """The commit, with a + if files differ from it."""
    def git(*arguments):
        done = subprocess.run(["git", "-C", ROOT, *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=False)
        return done.stdout.strip()
    head = git("rev-parse", "--short=9", "HEAD") or "unknown"
    return head + ("+" if git("status", "--porcelain", "--", "src", "sim", "fuzz") else "")


def read():
    """Every line, oldest first."""
    if not os.path.exists(LEDGER):
        return []
    with open(LEDGER, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def tree():
    """What a run is a run of. To be asked for before it begins: the tree may change meanwhile."""
    return {"commit": commit(), "engine": engine_digest()}


def append(harness, command, counts, violations, seconds, of=None, **more):
    """One more line; `of` is what tree() gave when the run began."""
    line = {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"), **(of or tree()),
            "harness": harness, "command": command, "counts": counts,
            "violations": violations, "seconds": round(seconds, 1), "machine": f"{os.cpu_count()} processors",
            **more}
    with open(LEDGER, "a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


def without_paths(words):
    """The command as anybody would type it: programs by name, no folder of this machine."""
    root = ROOT + os.sep
    out = [word[len(root):] if word.startswith(root) else word for word in words]
    return " ".join([os.path.basename(out[0]) if os.path.isabs(out[0]) else out[0], *out[1:]])


def run(harness, words):
    """Runs it, notes it, and gives its exit code. A run that ended without a count is no run."""
    of = tree()
    began = time.monotonic()
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.monotonic() - began
    sys.stdout.write(done.stdout)
    last = done.stdout.strip().splitlines()[-1:] or [""]
    if not last[0].startswith("{"):
        print("ledger: nothing was counted, expected a JSON object on the last line", file=sys.stderr)
        return done.returncode or 2
    said = json.loads(last[0])
    violations = said.pop("violations", 0 if done.returncode == 0 else 1)
    said.pop("seconds", None)
    counts = {name: value for name, value in said.items()
              if isinstance(value, int) and not isinstance(value, bool) and not name.endswith("_per_s")}
    append(harness, without_paths(words), counts, violations, seconds, of)
    return done.returncode


def number_of(text):
    name, _, value = text.partition("=")
    if not name or not value.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}', expected NAME=NUMBER")
    return name, int(value)


def main():
    parser = argparse.ArgumentParser(prog="tools/ledger.py", description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="what", required=True)
    add = commands.add_parser("add", help="note what was run")
    add.add_argument("--harness", required=True)
    add.add_argument("--command", required=True, help="as anybody would type it")
    add.add_argument("--seconds", type=float, required=True)
    add.add_argument("--violations", type=int, required=True)
    add.add_argument("--count", type=number_of, action="append", default=[], metavar="NAME=NUMBER")
    running = commands.add_parser("run", help="run a program whose last line counts, and note it")
    running.add_argument("harness")
    running.add_argument("words", nargs=argparse.REMAINDER, metavar="-- PROGRAM ...")
    given = parser.parse_args()
    if given.what == "add":
        append(given.harness, given.command, dict(given.count), given.violations, given.seconds)
        return 0
    words = given.words[1:] if given.words[:1] == ["--"] else given.words
    if not words:
        parser.error("expected a program to run")
    return run(given.harness, words)


if __name__ == "__main__":
    sys.exit(main())
