"""The command line and the sockets, given what they should not be; and JSON from every command that prints.

A refusal ends with a code that is not zero and one line that names the value and says what was expected; what
others have is served on as if nothing had been.
"""
import os
import socket
import struct

import support
from support import BINARY, GIB, KIB, MIB, run

CONTENT = os.urandom(64 * KIB)


def write(volume, content, at=0):
    handle = support.connect(volume)
    handle.pwrite(content, at, support.libnbd().CMD_FLAG_FUA)
    handle.shutdown()


def read(volume, length, at=0):
    handle = support.connect(volume)
    content = bytes(handle.pread(length, at))
    handle.shutdown()
    return content


def refused(done, *parts, code=None):
    said = done.stdout + done.stderr
    assert done.returncode != 0 and code in (None, done.returncode), f"ended with {done.returncode}: {said}"
    one_line = done.stderr.startswith("foreshadow: ") and done.stderr.count("\n") == 1
    assert one_line, f"not one line: {done.stderr!r}"
    for part in parts:
        assert part in done.stderr, f"expected {part!r} in: {done.stderr}"


# Words, and what the refusal must name: the value, and what was expected. Code 2 is a command line that
# cannot be read, code 1 a request that was refused.
BAD_WORDS = [
    (2, "volume create x --size 1TiB --primary 16MiB --colour red", ["--colour"]),
    (2, "volume create x --size 1TiB", ["--primary"]),
    (2, "volume create x --size lots --primary 16MiB", ['"lots"', "256MiB"]),
    (2, "volume create x --size 99999999TiB --primary 16MiB", ['"99999999TiB"', "expected"]),
    (2, "volume create x --size -1 --primary 16MiB", ["-1"]),
    (2, "volume create x --size 1GiB --primary 16MiB --redirect some", ['"some"', "allocating or all"]),
    (2, "volume create x --size 1GiB --primary 16MiB --hold-timeout soon", ['"soon"', "60s"]),
    (2, "-o xml status", ["xml", "json"]),
    (2, "shadow grant good --size 1parsec", ['"1parsec"', "expected"]),
    (1, "volume create Bad_Name --size 1GiB --primary 16MiB", ['"Bad_Name"', "a-z"]),
    (1, f"volume create {'n' * 64} --size 1GiB --primary 16MiB", ["63"]),
    (1, "volume create ../x --size 1GiB --primary 16MiB", ['"../x"', "a-z"]),
    (1, "volume create x --size 1000 --primary 16MiB", ["1000", "1MiB"]),
    (1, "volume create x --size 1073741825 --primary 16MiB", ["1073741825", "multiple of 4096"]),
    (1, "volume create x --size 200TiB --primary 16MiB", ["200TiB", "128TiB"]),
    (1, "volume create x --size 1GiB --primary 4MiB", ["4MiB", "8MiB"]),
    (1, "volume create x --size 1GiB --primary 20MiB --hold-timeout 11min", ["660000", "600000"]),
    (1, "volume create good --size 1GiB --primary 16MiB", ['"good"', "exists already"]),
    (1, "volume create x --size 1GiB --primary 16MiB --pool nowhere", ['"nowhere"', "default"]),
    (1, "volume create x --size 1GiB --primary 64MiB --pool tiny", ["64MiB", "tiny"]),
    (1, "volume show nothere", ['"nothere"', "good"]),
    (1, "volume check nothere", ['"nothere"', "good"]),
    (1, "volume rm nothere", ['"nothere"', "good"]),
    (1, "shadow grant nothere", ['"nothere"', "good"]),
    (1, "shadow grant good --size 1MiB", ["1MiB", "8MiB"]),
    (1, "shadow grant good --size 64MiB --pool tiny", ["64MiB", "tiny"]),
    (1, "shadow merge good --segment 63", ["63", "good"]),
    (1, "shadow fold nothere", ['"nothere"', "good"]),
    (1, "shadow fold good 63", ["63", "good", "there are:"]),
    (2, "shadow fold good first", ["first"]),
    (2, "shadow drain good", ["SEGMENT"]),
    (1, "shadow drain good 0", ["primary", "volume shrink good"]),
    (1, "shadow drain good 63", ["63", "good", "there are:"]),
    (2, "volume shrink good", ["--to", "--auto"]),
    (2, "volume shrink good --to 1GiB --auto", ["--to", "--auto"]),
    (2, "volume shrink good --to small", ['"small"', "expected"]),
    (1, "volume shrink good --to 4KiB", ["4KiB", "expected at least", "trim"]),
    (1, "volume shrink nothere --auto", ['"nothere"', "good"]),
    (2, "volume set good --merge swallow", ['"swallow"', "adopt or fold"]),
    (2, "volume set good --reclaim maybe", ['"maybe"', "on or off"]),
    (1, "volume set good --reclaim-after 1000h", ["at most"]),
    (1, "volume set nothere --reclaim on", ['"nothere"', "good"]),
    (1, "pool add other --dir /nonexistent/foreshadow", ["/nonexistent/foreshadow"]),
    (1, "pool add default --dir /tmp", ['"default"', "exists already"]),
    (1, "pool add x --dir /tmp --capacity 1MiB", ["1MiB", "8MiB"]),
    (1, "explain nothere", ['"nothere"', "good"]),
    (2, "fly", ["fly"]),
    (1, "replay /nonexistent.csv --uri nbd://localhost", ["/nonexistent.csv"]),
]


def bad_input(sandbox):
    server = sandbox.up()
    server.pool("tiny", "32MiB")
    volume = server.create("good")
    write(volume, CONTENT)
    failures = []
    for code, words, parts in BAD_WORDS:
        try:
            refused(server.cli(*words.split(), ok=False), *parts, code=code)
        except AssertionError as failure:
            failures.append(f"foreshadow {words}: {failure}")
    assert not failures, "\n".join(failures)
    refused(run(BINARY, "status", ok=False, env={"PATH": "/usr/bin"}), "--state", "FORESHADOW_STATE")
    nowhere = sandbox.path / "nowhere"
    refused(run(BINARY, "--state", nowhere, "status", ok=False), str(nowhere), "foreshadow up")
    refused(run(BINARY, "--state", nowhere, "volume", "check", "good", ok=False), str(nowhere), "agent.json")
    assert [v["name"] for v in server.cli("volume", "list")] == ["good"]
    assert not list(sandbox.path.glob("pool-tiny/*.seg"))
    assert read(volume, len(CONTENT)) == CONTENT
    volume.check()
    server.stop()


def state_in_use(sandbox):
    """A second server on the same directory is refused, and the first does not notice."""
    server = sandbox.up()
    volume = server.create("good")
    write(volume, CONTENT)
    control = f"unix:{server.state / 'control.sock'}"
    for words in (["up"], ["control"], ["agent", "--control", control]):
        refused(run(BINARY, "--state", server.state, *words, ok=False), str(server.state), code=1)
    taken = sandbox.path / "file"
    taken.write_text("not a directory")
    refused(run(BINARY, "--state", taken, "up", ok=False), str(taken), code=1)
    long = sandbox.path / ("d" * 120)
    refused(run(BINARY, "--state", long, "up", ok=False), "shorter", code=1)
    assert server.running() and read(volume, len(CONTENT)) == CONTENT
    volume.check()
    server.stop()


def damage(sandbox, spoil, expected, crash=False):
    """A primary is damaged while the server is down: its volume is refused by name, the other served."""
    server = sandbox.up()
    good, hurt = server.create("good"), server.create("hurt", size="256MiB")
    for volume in (good, hurt):
        volume.wait_for(lambda shown: any(s["state"] == "warm" for s in shown["segments"]))
        volume.check()
        for at in range(0, 24 * MIB, MIB):
            write(volume, CONTENT, at)
    shown = hurt.show()
    if crash:
        server.kill()
    else:
        server.stop()
    primary = next(s["uuid"] for s in shown["segments"] if s["role"] == "primary")
    file = next(sandbox.path.glob(f"**/{shown['id']}.{primary}.seg"))
    before = file.read_bytes()
    spoil(file)
    done = server.cli("volume", "check", "hurt", ok=False)
    assert done.returncode != 0, f"offline check takes a damaged volume for good: {done.stdout}"
    assert "hurt" in done.stdout and "finding" in done.stdout, done.stdout + done.stderr
    assert expected in done.stdout, f"expected {expected!r} in: {done.stdout}"
    sound = server.cli("volume", "check", "good", ok=False)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    server.start()
    expect_apart(server, good, hurt, expected)
    # Nothing was thrown away or made worse: with the file as it was, the volume is back.
    server.stop()
    file.write_bytes(before)
    server.start()
    for at in range(0, 24 * MIB, MIB):
        assert read(hurt, len(CONTENT), at) == CONTENT, f"offset {at}"
    hurt.check()
    server.stop()


def expect_apart(server, good, hurt, expected):
    """The sound volume is served and well; the damaged one is listed with its reason, and not served."""
    assert read(good, len(CONTENT), 23 * MIB) == CONTENT
    write(good, CONTENT[::-1], 40 * MIB)
    good.check()
    assert read(good, len(CONTENT), 40 * MIB) == CONTENT[::-1]
    refused_to_serve(hurt)
    refused_check = server.cli("volume", "check", "hurt", ok=False)
    assert refused_check.returncode != 0 and expected in refused_check.stdout, refused_check
    listed = {v["name"]: v for v in server.cli("volume", "list")}
    assert listed["good"]["read_only_reason"] == "" and listed["good"]["uri"], listed["good"]
    assert not listed["hurt"]["uri"], listed["hurt"]
    reason = listed["hurt"]["read_only_reason"]
    assert "cannot be opened" in reason and expected in reason, f"the reason it is not served for: {reason!r}"


def refused_to_serve(volume):
    done = run("nbdinfo", volume.uri(), ok=False)
    assert done.returncode != 0, f"a damaged volume is served: {done.stdout}"


def flip(file, blocks):
    """One bit in each of the blocks of 4 KiB."""
    with open(file, "r+b") as out:
        for block in blocks:
            out.seek(block * 4096 + 100)
            byte = out.read(1)
            out.seek(-1, os.SEEK_CUR)
            out.write(bytes([byte[0] ^ 0x10]))


# What lies where in a primary: docs/format.md. Two labels, four superblocks of two blocks, then the journal.
LABELS, SUPERBLOCKS, JOURNAL = range(0, 2), range(2, 10), 10


def truncated_segment(sandbox):
    damage(sandbox, lambda file: os.truncate(file, 9 * MIB + 4096), "bytes")


def flipped_journal(sandbox):
    """A block of what a crash left to be read: a hole in durable history, or its end; no torn tail."""
    damage(sandbox, lambda file: flip(file, [JOURNAL + 8]), "journal", crash=True)


def flipped_superblocks(sandbox):
    damage(sandbox, lambda file: flip(file, SUPERBLOCKS), "superblock")


def flipped_labels(sandbox):
    damage(sandbox, lambda file: flip(file, LABELS), "label")


# ---- raw sockets ----

MAGIC, OPTION, REQUEST = b"NBDMAGIC", b"IHAVEOPT", 0x25609513
OPT_EXPORT_NAME, OPT_GO = 1, 7
FIXED_NEWSTYLE, NO_ZEROES = 1, 2


class Raw:
    """An NBD client that says what it is told to say."""

    def __init__(self, volume, export=None):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(volume.socket()))
        assert self.receive(18)[:16] == MAGIC + OPTION
        if export is not None:
            self.send(struct.pack(">I", FIXED_NEWSTYLE | NO_ZEROES) +
                      self.option(OPT_EXPORT_NAME, export.encode()))
            assert struct.unpack(">Q", self.receive(10)[:8])[0] == GIB

    @staticmethod
    def option(number, payload, length=None):
        return OPTION + struct.pack(">II", number, len(payload) if length is None else length) + payload

    @staticmethod
    def request(kind, offset, length, flags=0, magic=REQUEST):
        return struct.pack(">IHHQQI", magic, flags, kind, 7, offset, length)

    def send(self, data):
        self.socket.sendall(data)

    def receive(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise ConnectionError(f"closed after {len(data)} of {length} bytes")
            data += more
        return data

    def reply_error(self):
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        assert magic == 0x67446698 and cookie == 7, (magic, cookie)
        return error

    def expect_close(self):
        """The server ends it, and says no more than an error before."""
        try:
            while self.socket.recv(4096):
                pass
        except ConnectionResetError:
            pass
        self.close()

    def close(self):
        self.socket.close()


def client_vanishes(sandbox):
    """Clients that go in the middle of a payload, a header or the handshake, or with answers unread."""
    server = sandbox.up()
    volume = server.create("good")
    other = server.create("other")
    for each in (volume, other):
        write(each, CONTENT)
    for half in (0, 1, 4096, 32 * KIB, 64 * KIB - 1):
        raw = Raw(volume, "good")
        raw.send(Raw.request(1, 0, 64 * KIB) + b"\xee" * half)
        raw.close()
    for piece in (b"", b"\0\0\0", struct.pack(">I", 3), struct.pack(">I", 3) + Raw.option(OPT_GO, b"", 4000)):
        raw = Raw(volume)
        raw.send(piece)
        raw.close()
    for piece in (Raw.request(0, 0, MIB) * 30, Raw.request(0, 0, MIB)[:13]):
        raw = Raw(volume, "good")
        raw.send(piece)
        raw.close()
    # A write whose payload did not all arrive has not happened, not even in part.
    assert read(volume, len(CONTENT)) == CONTENT
    assert read(other, len(CONTENT)) == CONTENT
    for each in (volume, other):
        each.check()
        assert each.show()["failed_writes"] == 0
    server.stop()


def malformed_nbd(sandbox):
    """What no client should send: it is refused or the connection closed, and only that one."""
    server = sandbox.up()
    volume = server.create("good")
    bystander = Raw(volume, "good")
    write(volume, CONTENT)
    flags = struct.pack(">I", FIXED_NEWSTYLE | NO_ZEROES)
    for greeting in (struct.pack(">I", 0xfffffff0), flags + b"GET / HTTP/1.1\r\n\r\n" * 4,
                     flags + Raw.option(OPT_GO, b"", 1 << 31), flags + Raw.option(OPT_GO, b"x" * 9000),
                     flags + Raw.option(OPT_EXPORT_NAME, b"no-such-volume"),
                     flags + Raw.option(OPT_EXPORT_NAME, b"\xff/../\0" * 20)):
        raw = Raw(volume)
        raw.send(greeting)
        raw.socket.shutdown(socket.SHUT_WR)
        raw.expect_close()
    # An option that cannot be read is answered, and the next one is taken.
    raw = Raw(volume)
    raw.send(flags + Raw.option(OPT_GO, struct.pack(">I", 4000) + b"short") + Raw.option(77, b"what"))
    for _ in range(2):
        magic, _, kind, length = struct.unpack(">QIII", raw.receive(20))
        assert magic == 0x3e889045565a9 and kind & 0x80000000, hex(kind)
        raw.receive(length)
    raw.send(Raw.option(OPT_EXPORT_NAME, b"good"))
    raw.receive(10)
    for bad in (Raw.request(99, 0, 512), Raw.request(0, 2 * GIB, 512), Raw.request(0, 0, 512, flags=0x8000),
                Raw.request(4, GIB, 4096), Raw.request(6, (1 << 64) - 512, 4096),
                Raw.request(0, 0, 64 * MIB + 1)):
        raw.send(bad)
        assert raw.reply_error() != 0, bad
    raw.send(Raw.request(1, GIB - 512, 1024) + b"\xaa" * 1024)
    assert raw.reply_error() == 28  # ENOSPC: past the end
    raw.send(Raw.request(0, 0, len(CONTENT)))
    assert raw.reply_error() == 0 and raw.receive(len(CONTENT)) == CONTENT
    raw.send(Raw.request(0, 0, 512, magic=0xdeadbeef))
    raw.expect_close()
    bystander.send(Raw.request(0, 0, 512))
    assert bystander.reply_error() == 0 and bystander.receive(512) == CONTENT[:512]
    bystander.close()
    volume.check()
    assert volume.show()["failed_writes"] == 0
    server.stop()


# ---- -o json ----

VOLUME = {"id": str, "name": str, "size": int, "capacity": int, "used": int, "data": int, "holds": int,
          "held_now": int, "hold_us_max": int, "failed_writes": int, "redirect": str, "read_only_reason": str,
          "pool": str, "agent_id": str, "uri": str, "segments": list, "merge": str, "reclaim": bool}
SEGMENT = {"id": int, "uuid": str, "role": str, "state": str, "pool": str, "capacity": int, "used": int,
           "backing": int}
PLAN = {"steps": list, "capacity_before": int, "capacity_after": int, "target": int, "sentence": str}
FORECAST = {"time_to_full_p50_s": (int, float), "time_to_full_p95_s": (int, float),
            "growth_bytes_per_s": (int, float), "lead_time_p99_s": (int, float), "samples": int,
            "free_bytes": int}
POOL = {"name": str, "directory": str, "capacity": int, "used": int, "configured_capacity": int}
EVENT = {"sequence": int, "time_ms": int, "kind": str, "volume": str, "message": str}
DECISION = {"time_ms": int, "action": str, "sentence": str, "inputs": dict}
CHECK = {"ok": bool, "findings": list, "clusters_mapped": int, "clusters_free": int, "journal_records": int}
STATUS = {"version": str, "started_ms": int, "agents": list, "volumes": int, "pending_intents": int}


def expect_fields(what, fields, value):
    for name, kind in fields.items():
        assert name in value, f"{what} has no field {name}: {value}"
        assert isinstance(value[name], kind), f"{what}: {name} is {value[name]!r}, expected {kind}"


def json_output(sandbox):
    server = sandbox.up()
    directory = sandbox.path / "more"
    directory.mkdir()
    added = server.cli("pool", "add", "more", "--dir", directory, "--capacity", "1GiB")
    expect_fields("pool add", POOL, added)
    made = server.cli("volume", "create", "db", "--size", "1GiB", "--primary", "16MiB", "--pool", "more")
    volume = support.Volume(server, "db")
    write(volume, CONTENT)
    granted = server.cli("shadow", "grant", "db", "--size", "16MiB", "--pool", "default")
    merged = server.cli("shadow", "merge", "db")
    shown, listed = volume.show(), server.cli("volume", "list")
    way_back = the_way_back(server, volume)
    for what, value in (("create", made), ("grant", granted), ("merge", merged), ("show", shown),
                        ("list", listed[0]), *way_back.items()):
        expect_fields(f"volume of {what}", VOLUME, value)
        for segment in value["segments"]:
            expect_fields(f"segment of {what}", SEGMENT, segment)
    assert shown["segments"][0]["role"] == "primary" and shown["segments"][0]["id"] == 0, shown["segments"]
    assert [s["role"] for s in shown["segments"][1:]].count("shadow") >= 2, shown["segments"]
    assert any(s["role"] == "shadow" and s["state"] == "merged" for s in merged["segments"]), merged
    expect_fields("forecast", FORECAST, shown["forecast"])
    shadows = server.cli("shadow", "list")
    assert len(shadows) == len(shown["segments"]) - 1 and shadows == server.cli("shadow", "list", "db")
    for row in shadows:
        expect_fields("shadow list", {**SEGMENT, "volume": str}, row)
    for pool in server.cli("pool", "list"):
        expect_fields("pool list", POOL, pool)
    expect_fields("check", CHECK, volume.check())
    explained = server.cli("explain", "db")
    expect_fields("explain", {"sentence": str, "forecast": dict, "decisions": list}, explained)
    assert explained["decisions"], explained
    for decision in explained["decisions"]:
        expect_fields("decision", DECISION, decision)
    events = server.cli("events")
    sequences = [event["sequence"] for event in events]
    assert sequences == sorted(set(sequences)) and sequences, sequences
    for event in events:
        expect_fields("event", EVENT, event)
    assert {"volume.created", "shadow.granted", "shadow.warm", "shadow.merged"} <= {e["kind"] for e in events}
    assert server.cli("events", "--after", sequences[1], "--volume", "db") == [
        event for event in events[2:] if event["volume"] == "db"]
    expect_fields("status", STATUS, server.cli("status"))
    expect_fields("version", {"version": str}, server.cli("version"))
    trace = sandbox.path / "trace.csv"
    trace.write_text("time_us,op,offset,length\n0,W,0,65536\n10,R,0,4096\n20,F,0,0\n")
    assert isinstance(server.cli("replay", trace, "--uri", volume.uri(), "--speed", "max"), dict)
    server.cli("volume", "rm", "db")
    assert server.cli("volume", "list") == []
    server.stop()
    offline(server)


def the_way_back(server, volume):
    """What the commands print that give segments back, and how the volume is afterwards as it was before."""
    before = {s["uuid"] for s in volume.show()["segments"]}
    out = {}
    for command in ("fold", "drain"):
        granted = server.cli("shadow", "grant", "db", "--size", "16MiB", "--pool", "default")
        number = max(s["id"] for s in granted["segments"])
        server.cli("shadow", "merge", "db", "--segment", number)
        out[command] = server.cli("shadow", command, "db", number)
        assert {s["uuid"] for s in out[command]["segments"]} == before, out[command]["segments"]
    shrunk = server.cli("volume", "shrink", "db", "--to", "900MiB", "--plan")
    expect_fields("shrink", PLAN, shrunk["plan"])
    # A shadow that waits warm is more than the volume needs, and holds nothing.
    assert all(step["moves_bytes"] == 0 for step in shrunk["plan"]["steps"]), shrunk["plan"]
    out["shrink"] = shrunk["volume"]
    words = ["--merge", "fold", "--reclaim", "on", "--reclaim-after", "1h"]
    out["set"] = server.cli("volume", "set", "db", *words)
    assert (out["set"]["merge"], out["set"]["reclaim"], out["set"]["reclaim_hold_s"]) == ("fold", True, 3600)
    out["set again"] = server.cli("volume", "set", "db", "--merge", "adopt", "--reclaim", "off")
    assert out["set again"]["reclaim_hold_s"] == 3600, out["set again"]
    return out


def offline(server):
    """The offline check prints what the one through the server prints."""
    server.start()
    volume = server.create("cold")
    write(volume, CONTENT)
    server.stop()
    expect_fields("offline check", CHECK, volume.check())


if __name__ == "__main__":
    support.main({"bad_input": bad_input, "state_in_use": state_in_use,
                  "truncated_segment": truncated_segment, "flipped_journal": flipped_journal,
                  "flipped_superblocks": flipped_superblocks, "flipped_labels": flipped_labels,
                  "client_vanishes": client_vanishes, "malformed_nbd": malformed_nbd, "json": json_output})
