"""The way back, end to end: what a purge has freed returns to the pool while the volume is in use."""
import hashlib
import json
import os
import random
import threading
import time

import interop_test
import stamps
import support
from support import MIB, Server, need, run

FILES, FILE_BYTES, KEPT = 240, 10 * MIB, 5  # every fifth is kept: 80 % are deleted


def content(number):
    """Of a file: not compressible, and told by its number."""
    return random.Random(number).randbytes(FILE_BYTES)


class Reader(threading.Thread):
    """Reads files again and again, past every cache, and compares them; leaving the block tells."""

    def __init__(self, paths, device):
        super().__init__(daemon=True)
        self.paths, self.device = paths, device
        self.sums = {path: hashlib.sha256(path.read_bytes()).digest() for path in paths}
        self.rounds, self.wanted_end, self.failure = 0, threading.Event(), None

    def run(self):
        while not self.wanted_end.is_set() or self.rounds == 0:
            for path in self.paths:
                try:
                    self.read(path)
                except (OSError, AssertionError) as failure:
                    self.failure = f"{path}: {failure}"
                    return
            self.rounds += 1

    def read(self, path):
        for cached in (path, self.device):
            fd = os.open(cached, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        assert hashlib.sha256(path.read_bytes()).digest() == self.sums[path], "its content has changed"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        self.wanted_end.set()
        self.join()
        assert kind is not None or self.failure is None, self.failure


def taken(sandbox):
    """What the pool's files really take, as the file system counts it."""
    return sum(file.stat().st_blocks * 512 for file in sandbox.path.glob("**/*.seg"))


def ext4(sandbox):
    if os.geteuid() != 0:
        raise support.Skip("mounting a loop device needs root")
    need("nbdfuse", "mkfs.ext4", "e2fsck", "losetup", "mount", "umount", "fstrim")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or not os.path.exists("/dev/loop-control"):
        raise support.Skip("there is no /dev/fuse or no /dev/loop-control")
    support.take_mounts_apart()
    server = Server(sandbox, "up", "s", "--shadow-max", "64MiB")
    volume = server.create("db", size="4GiB", primary="64MiB")
    fuse, mount = sandbox.path / "fuse", sandbox.path / "mount"
    for directory in (fuse, mount):
        directory.mkdir()
    with interop_test.Nbdfuse(volume, fuse), interop_test.Loop(fuse / "nbd") as loop:
        run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-J", "size=8", loop.device)
        with interop_test.Mounted(loop.device, mount):
            for i in range(FILES):
                (mount / f"file-{i}").write_bytes(content(i))
            run("sync", "-f", mount)
            full = volume.refresh()
            pool_full, taken_full = server.cli("pool", "list")[0]["used"], taken(sandbox)
            kept = [mount / f"file-{i}" for i in range(0, FILES, KEPT)]
            for i in range(FILES):
                if i % KEPT != 0:
                    (mount / f"file-{i}").unlink()
            run("sync", "-f", mount)
            run("fstrim", mount)
            purged = volume.refresh()
            assert purged["used"] < full["used"] / 3, f"used was {full['used']}, is {purged['used']}"
            planned = server.cli("volume", "shrink", "db", "--auto", "--plan")["plan"]
            assert planned["steps"] and volume.show()["capacity"] == purged["capacity"], planned
            with Reader(kept, fuse / "nbd") as during:
                began = time.monotonic()
                shrunk = server.cli("volume", "shrink", "db", "--auto")
                took = time.monotonic() - began
                (mount / "new").write_bytes(content(FILES))
                run("sync", "-f", mount)
            kept.append(mount / "new")
            after = Reader(kept, fuse / "nbd")
            for path in kept:
                after.read(path)
        run("e2fsck", "-f", "-n", loop.device)
        with interop_test.Mounted(loop.device, mount):
            for i in range(0, FILES, KEPT):
                assert (mount / f"file-{i}").read_bytes() == content(i), f"file-{i} after the remount"
    # Beside what the data needs, policy keeps as much warm as it thinks a writer like this one may take:
    # seconds after it wrote half a GiB at once, that is much.
    done = volume.wait_for(lambda shown: any(s["state"] == "warm" for s in shown["segments"]))
    decisions = server.cli("explain", "db")["decisions"]
    growth = next(d["inputs"]["need"] for d in decisions if "need" in d["inputs"])  # to be ready for
    warm = sum(s["capacity"] for s in done["segments"] if s["state"] == "warm")
    figures = {"used": done["used"], "capacity_full": full["capacity"], "capacity": done["capacity"],
               "warm": warm, "growth": int(growth),
               "pool_full": pool_full, "pool": server.cli("pool", "list")[0]["used"],
               "taken_full": taken_full, "taken": taken(sandbox), "seconds": round(took, 2),
               "moved": shrunk["plan"]["sentence"], "rounds_read_meanwhile": during.rounds}
    print(json.dumps(figures), flush=True)
    assert done["capacity"] - warm <= 1.25 * done["used"], figures
    assert done["capacity"] <= 1.25 * (done["used"] + growth), figures
    assert figures["pool"] < 0.5 * pool_full and figures["taken"] < 0.5 * taken_full, figures
    kinds = {event["kind"] for event in server.cli("events", "--volume", "db")}
    assert {"volume.shrinking", "segment.draining", "segment.released", "volume.shrunk"} <= kinds, kinds
    volume.expect_well(merged=0)
    server.stop()
    volume.check()  # without a server


def fold_and_drain(sandbox):
    """By hand, under a writer that checks all it reads: nothing waits, and nothing stays behind."""
    server = sandbox.up()
    # Policy backs all of it and no more, which leaves room in the pool for the primary to grow.
    volume = server.small_volume(shadows=0, size="256MiB", pool_size="512MiB")
    ledger = stamps.Ledger(96 * MIB // stamps.SECTOR)
    with stamps.Load(volume, ledger, seed=7) as load:
        volume.wait_for(lambda shown: shown["used"] > 40 * MIB)
        volume.merge()
        oldest = min(s["id"] for s in volume.show()["segments"] if s["id"] != 0)
        folded = server.cli("shadow", "fold", "db")
        assert oldest not in [s["id"] for s in folded["segments"]], folded["segments"]
        primary = folded["segments"][0]
        assert primary["role"] == "primary" and primary["capacity"] > 16 * MIB, primary
        for _ in range(2):
            volume.grant("160MiB")
        large = [s["id"] for s in volume.show()["segments"] if s["id"] != 0 and s["capacity"] > 100 * MIB]
        for number in large:
            server.cli("shadow", "merge", "db", "--segment", number)
        other = large[0]
        drained = server.cli("shadow", "drain", "db", str(other))
        assert other not in [s["id"] for s in drained["segments"]], drained["segments"]
    assert load.writer.ledger.acknowledged > 0
    shown = volume.expect_well(merged=0, holds=None)
    assert shown["holds"] == 0 and shown["job"] is None, f"holds {shown['holds']}, job {shown['job']}"
    handle = support.connect(volume)
    ledger.verify_volume(handle)
    handle.shutdown()
    kinds = [event["kind"] for event in server.cli("events", "--volume", "db")]
    for kind in ("shadow.folding", "shadow.folded", "segment.draining", "segment.released"):
        assert kinds.count(kind) == 1, f"{kind}: {kinds}"
    server.stop()


def merge_by_fold(sandbox):
    """A volume that folds has its data in the primary and in one shadow, however much is written."""
    server = Server(sandbox, "up", "s", "--shadow-max", "64MiB")
    volume = server.create("db", size="2GiB", primary="64MiB", merge="fold")
    handle = support.connect(volume)
    data = os.urandom(MIB)
    for i in range(400):
        handle.pwrite(data, i * MIB)
    handle.flush()
    shown = volume.wait_for(
        lambda shown: support.settled(shown)
        and len([segment for segment in shown["segments"] if segment["used"] > 0]) <= 2
    )
    assert shown["segments"][0]["capacity"] >= 256 * MIB, shown["segments"]
    assert shown["merge"] == "fold" and shown["failed_writes"] == 0, shown
    for i in range(0, 400, 13):
        assert bytes(handle.pread(MIB, i * MIB)) == data, i
    kinds = [event["kind"] for event in server.cli("events", "--volume", "db")]
    assert kinds.count("shadow.folded") >= 3 and "shadow.merged" not in kinds, kinds
    decisions = {decision["action"] for decision in server.cli("explain", "db")["decisions"]}
    assert "fold" in decisions, decisions
    volume.expect_well(merged=0)
    server.stop()


if __name__ == "__main__":
    support.main({"ext4": ext4, "fold_and_drain": fold_and_drain, "merge_by_fold": merge_by_fold})
