"""Integrity as an administrator meets it: checksums and scrub, repair with and without a server, rescue."""
import json
import os
import shutil

import support
from support import BINARY, KIB, MIB, connect, run

CONTENT = bytes(range(256)) * (64 * KIB // 256)
LABEL, SUPERBLOCKS = 4096, range(8192, 40960, 8192)  # docs/format.md


def write(volume, content, at=0):
    handle = connect(volume)
    handle.pwrite(content, at, support.libnbd().CMD_FLAG_FUA)
    handle.shutdown()


def read(volume, length, at=0):
    handle = connect(volume)
    content = bytes(handle.pread(length, at))
    handle.shutdown()
    return content


def primary_of(sandbox, shown):
    primary = next(s["uuid"] for s in shown["segments"] if s["role"] == "primary")
    return next(sandbox.path.glob(f"**/{shown['id']}.{primary}.seg"))


def spoil(file, *places, length=4096):
    with open(file, "r+b") as out:
        for place in places:
            out.seek(place)
            out.write(b"\x5a" * length)


def scrub(sandbox):
    """A rotten block is found, named, refused to readers and to nobody else; a rate is kept to."""
    server = sandbox.up()
    volume = server.create("db", size="256MiB", primary="64MiB", checksums=True)
    shown = volume.show()
    assert shown["checksums"] is True, shown
    for at in range(0, 16 * MIB, MIB):
        write(volume, CONTENT, at)
    sound = server.cli("volume", "scrub", "db")
    assert sound["verified"] == 16 * 16 and sound["corrupt"] == 0 and not sound["running"], sound
    slow = server.cli("volume", "scrub", "db", "--rate", "64KiB/s", "--no-wait")
    assert slow["running"] and slow["rate"] == 64 * KIB, slow
    stopped = server.cli("volume", "scrub", "db", "--stop")
    assert not stopped["running"] and stopped["read"] < 16 * 16, stopped

    file = primary_of(sandbox, shown)
    content = file.read_bytes()
    at = content.index(CONTENT)
    spoil(file, at + 8192 + 5, length=1)
    done = server.cli("volume", "scrub", "db", "--restart", ok=False)
    assert done.returncode == 1 and "1 corrupt" in done.stdout, done.stdout + done.stderr
    handle = connect(volume)
    written = [at + block for at in range(0, 16 * MIB, MIB) for block in range(0, 64 * KIB, 4096)]
    refused = [at for at in written if not readable(handle, at)]
    assert len(refused) == 1, refused
    handle.pwrite(CONTENT[:4096], refused[0])
    assert bytes(handle.pread(4096, refused[0])) == CONTENT[:4096]
    events = [event["kind"] for event in server.cli("events")]
    assert "data.corrupt" in events and "scrub.ended" in events, events
    server.stop()


def readable(handle, at):
    try:
        handle.pread(4096, at)
        return True
    except support.libnbd().Error:
        return False


def repair(sandbox):
    """Damage that a second copy proves is made good, without a server and through one; and said."""
    server = sandbox.up()
    volume = server.create("db")
    write(volume, CONTENT, 5 * MIB)
    shown = volume.show()
    file = primary_of(sandbox, shown)
    server.stop()
    spoil(file, 0, SUPERBLOCKS[1])
    found = server.cli("volume", "check", "db", ok=False)
    assert found.returncode == 1 and "repaired" not in found.stdout, found.stdout
    report = server.cli("volume", "check", "db", "--repair")
    assert report["ok"] and len(report["repaired"]) == 2, report
    assert server.cli("volume", "check", "db", "--repair")["repaired"] == []
    # Through a server that could not open it.
    with open(file, "r+b") as out:
        for place in SUPERBLOCKS:
            out.seek(place + 60)
            byte = out.read(1)
            out.seek(place + 60)
            out.write(bytes([byte[0] ^ 2]))
    server.start()
    assert not volume.show()["uri"], "it cannot be served"
    report = server.cli("volume", "check", "db", "--repair")
    assert report["ok"] and report["repaired"], report
    assert read(volume, len(CONTENT), 5 * MIB) == CONTENT
    spoil(file, LABEL)
    assert server.cli("volume", "check", "db", ok=False).returncode == 1
    report = server.cli("volume", "check", "db", "--repair")
    assert report["ok"] and len(report["repaired"]) == 1, report
    volume.check()
    server.stop()


def rescue(sandbox):
    """The state directory is gone, and so is every superblock of one volume and a label of another."""
    server = sandbox.up()
    first, second = server.create("first"), server.create("second", size="512MiB", checksums=True)
    server.pool("more")
    server.cli("shadow", "grant", "second", "--size", "16MiB", "--pool", "more")
    for volume in (first, second):
        for at in range(0, 20 * MIB, MIB):
            write(volume, CONTENT, at)
    files = [primary_of(sandbox, volume.show()) for volume in (first, second)]
    server.stop()
    pools = sorted({file.parent for file in sandbox.path.glob("**/*.seg")})
    kept = sandbox.path / "kept"
    kept.mkdir()
    for pool in pools:
        pool.rename(kept / pool.name)
    pools = [kept / pool.name for pool in pools]
    shutil.rmtree(server.state)
    spoil(kept / files[0].parent.name / files[0].name, *SUPERBLOCKS, length=8192)
    spoil(kept / files[1].parent.name / files[1].name, 0)

    words = [word for pool in pools for word in ("--pool-dir", pool)] + ["--state", server.state]
    before = [file.read_bytes() for file in sorted(kept.glob("**/*.seg"))]
    told = json.loads(run(BINARY, "-o", "json", "rescue", *words))
    assert sorted(v["name"] for v in told["volumes"]) == ["first", "second"], told
    assert before == [file.read_bytes() for file in sorted(kept.glob("**/*.seg"))], "it has only looked"
    assert not (server.state / "agent.json").exists()
    done = json.loads(run(BINARY, "-o", "json", "rescue", *words, "--apply"))
    for volume in done["volumes"]:
        assert volume["whole"] and volume["repaired"] and not volume["problems"], volume
    server.start()
    for volume in (first, second):
        for at in range(0, 20 * MIB, MIB):
            assert read(volume, len(CONTENT), at) == CONTENT, f"{volume.name} at {at}"
        volume.check()
    sizes = {v["name"]: v["size"] for v in server.cli("volume", "list")}
    assert sizes == {"first": 1024 * MIB, "second": 512 * MIB}, sizes
    server.stop()

    # A segment that is not there is named; the others are served on.
    missing = next(file for file in sorted(kept.glob("**/*.seg")) if file.stat().st_size == 16 * MIB
                   and file.name.split(".")[0] == files[1].name.split(".")[0] and file.name != files[1].name)
    os.rename(missing, sandbox.path / "gone")
    told = run(BINARY, "rescue", *words, ok=False)
    assert told.returncode == 1 and missing.name.split(".")[1] in told.stdout, told.stdout
    assert "volume first" in told.stdout and "whole" in told.stdout, told.stdout


if __name__ == "__main__":
    support.main({"scrub": scrub, "repair": repair, "rescue": rescue})
