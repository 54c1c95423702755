"""Volumes over images that were there before: adopted, written, grown, removed; and the wall's policy.

What nobody wrote must be in the image as it was, byte for byte, and nothing but the volume may have changed.
"""
import hashlib
import os

import support
from cli_test import read, refused, write
from interop_test import Loop, Mounted, Nbdfuse, ext4_copy
from support import GIB, KIB, MIB, need, run


class Over(support.Volume):
    """A volume over `image`, served by `server`."""

    def __init__(self, server, name, image, *options):
        super().__init__(server, name)
        server.cli("volume", "adopt-device", name, "--device", image, "--primary", "32MiB", *options)

    def size(self):
        handle = support.connect(self)
        size = handle.get_size()
        handle.shutdown()
        return size

    def grow(self, size):
        self.server.cli("volume", "grow", self.name, "--size", str(size))


def digest(path):
    with open(path, "rb") as content:
        return hashlib.sha256(content.read()).hexdigest()


def adopt(sandbox):
    """The image shows as it is; overwrites go in place; first touches beyond it go to the head; all of it is
    there after a restart; rm leaves the image, and says so."""
    server = sandbox.up()
    before = os.urandom(8 * MIB + 1536)
    image = sandbox.file("image", before)
    volume = Over(server, "db", image)
    shown = volume.show()
    assert shown["size"] == len(before) and shown["base_path"] == str(image), shown
    assert [s["role"] for s in shown["segments"]] == ["primary", "base"], shown["segments"]
    assert read(volume, len(before)) == before
    write(volume, b"x" * 5000, at=100_000)
    expected = before[:100_000] + b"x" * 5000 + before[105_000:]
    assert image.read_bytes() == expected, "an overwrite goes in place, and nothing else changes"
    volume.grow(64 * MIB)
    write(volume, b"y" * MIB, at=len(before) - 1000)
    expected += bytes(64 * MIB - len(expected))
    at = len(before) - 1000
    expected = expected[:at] + b"y" * MIB + expected[at + MIB:]
    assert read(volume, 64 * MIB - 32 * MIB) == expected[:32 * MIB]
    assert os.path.getsize(image) == len(before), "nothing is written past the image"
    volume.check()
    server.stop()
    server.start()
    assert volume.size() == 64 * MIB
    assert read(volume, 32 * MIB) == expected[:32 * MIB]
    server.kill()
    server.start()
    assert read(volume, 32 * MIB) == expected[:32 * MIB]
    volume.check()
    server.stop()
    assert server.cli("volume", "check", "db")["ok"], "without a server too"
    server.start()
    kept = digest(image)
    refused(server.cli("volume", "rm", "db", ok=False), "not in its image", str(image), code=1)
    assert read(volume, 4096) == expected[:4096], "a refused removal changes nothing"
    assert server.cli("volume", "rm", "db", "--force")["kept"] == str(image)
    assert digest(image) == kept
    assert not list(sandbox.path.glob("**/*.seg"))


def redirect_all(sandbox):
    """While an active shadow takes all writes, the image is not touched at all."""
    server = sandbox.up()
    before = os.urandom(16 * MIB)
    image = sandbox.file("image", before)
    volume = Over(server, "db", image, "--redirect", "all", "--size", "256MiB")
    volume.grant(size="64MiB")
    at = 64 * MIB
    while not any(s["state"] == "active" for s in volume.show()["segments"]):  # until the head is full
        write(volume, b"f" * MIB, at=at)
        at += MIB
    assert image.read_bytes() == before
    expected = bytearray(before)
    for offset in (0, 3 * MIB + 4096, 8 * MIB + 100):
        write(volume, b"z" * 300_000, at=offset)
        expected[offset:offset + 300_000] = b"z" * 300_000
    for _ in range(2):
        assert read(volume, 16 * MIB) == bytes(expected)
        assert image.read_bytes() == before
        volume.check()
        server.stop()
        server.start()


def trim(sandbox):
    """What is trimmed reads as zero, and the image keeps the old bytes. Zeros are written."""
    server = sandbox.up()
    before = os.urandom(4 * MIB)
    image = sandbox.file("image", before)
    volume = Over(server, "db", image)
    handle = support.connect(volume)
    handle.trim(MIB, MIB)
    handle.zero(MIB, 2 * MIB)
    handle.flush()
    assert bytes(handle.pread(2 * MIB, MIB)) == bytes(2 * MIB)
    handle.shutdown()
    assert image.read_bytes() == before[:2 * MIB] + bytes(MIB) + before[3 * MIB:]
    server.stop()
    server.start()
    assert read(volume, 4 * MIB) == before[:MIB] + bytes(2 * MIB) + before[3 * MIB:]
    volume.check()
    assert server.cli("volume", "rm", "db")["kept"] == str(image), "no data lies outside the image"


def refusals(sandbox):
    """Every image that cannot be adopted is refused by name, and left as it is."""
    server = sandbox.up()
    image = sandbox.file("image", os.urandom(4 * MIB))
    small = sandbox.file("small", b"x" * 40_000)
    Over(server, "db", image)

    def adopt_fails(path, *parts, options=(), code=1):
        done = server.cli("volume", "adopt-device", "other", "--device", path, *options, ok=False)
        refused(done, str(path), *parts, code=code)

    adopt_fails(image, "belongs to volume db already")
    linked = sandbox.path / "linked"
    linked.symlink_to(image)
    adopt_fails(linked, "belongs to volume db")
    adopt_fails(small, "at least 65536")
    adopt_fails(sandbox.path / "nothing-here", "No such file")
    adopt_fails("/dev/null", "regular file or a block device")
    adopt_fails(next(sandbox.path.glob("**/*.seg")), "locked")
    spare = sandbox.file("spare", bytes(4 * MIB))
    adopt_fails(spare, "2MiB", "has 4MiB already", options=("--size", "2MiB"))
    for code, words, parts in (
            (1, f"volume adopt-device db --device {spare}", ['"db"', "exists already"]),
            (2, f"volume adopt-device x --device {spare} --backpressure much", ['"much"', "64MiB"]),
            (1, f"volume adopt-device x --device {spare} --primary 1MiB", ["1MiB", "8MiB"]),
            (1, "volume grow db --size 2MiB", ["never shrinks"]),
            (1, "volume grow db --size 200TiB", ["200TiB", "128TiB"]),
            (1, "volume grow nothere --size 2MiB", ['"nothere"', "db"]),
            (1, "volume set db", ["hold"]),
            (1, "volume set db --hold-timeout 11min", ["660000", "600000"]),
            (1, "nbd-resize /dev/null --size 1GiB", ["/dev/null", "/dev/nbd0"]),
            (1, "nbd-resize /dev/nbd0", ["--volume", "--size"]),
            (1, "nbd-resize /dev/nbd0 --volume nothere", ['"nothere"', "db"])):
        refused(server.cli(*words.split(), ok=False), *parts, code=code)
    # One whose size has changed meanwhile is not served, and says why; nothing else suffers.
    server.stop()
    with open(image, "ab") as grown:
        grown.write(bytes(4096))
    server.start()
    reason = server.cli("volume", "show", "db")["read_only_reason"]
    assert "has changed" in reason and str(image) in reason, reason
    server.stop()
    os.truncate(image, 4 * MIB)
    server.start()
    assert not server.cli("volume", "show", "db")["read_only_reason"]


def block_device(sandbox):
    """A loop device is a device; mounted, it is in use."""
    if os.geteuid() != 0:
        raise support.Skip("loop devices need root")
    need("losetup", "mkfs.ext4", "mount", "umount", "e2fsck")
    if not os.path.exists("/dev/loop-control"):
        raise support.Skip("there is no /dev/loop-control")
    support.take_mounts_apart()
    server = sandbox.up()
    image = sandbox.file("image", bytes(64 * MIB))
    with Loop(image) as loop:
        run("mkfs.ext4", "-q", "-F", loop.device)
        mount = sandbox.path / "mount"
        mount.mkdir()
        with Mounted(loop.device, mount):
            (mount / "file").write_bytes(b"content" * 10_000)
            done = server.cli("volume", "adopt-device", "db", "--device", loop.device, ok=False)
            refused(done, loop.device, "in use", code=1)
        volume = Over(server, "db", loop.device)
        assert volume.size() == 64 * MIB
        content = read(volume, 64 * MIB)
        write(volume, content[MIB:2 * MIB], at=MIB)  # in place, the same again
        server.stop()
        run("e2fsck", "-f", "-n", loop.device)
        with Mounted(loop.device, mount):
            assert (mount / "file").read_bytes() == b"content" * 10_000


def ext4(sandbox):
    """A file system that was there before is adopted, written, and grown with its volume."""
    if os.geteuid() != 0:
        raise support.Skip("mounting a loop device needs root")
    need("nbdfuse", "mkfs.ext4", "e2fsck", "resize2fs", "losetup", "mount", "umount", "diff")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or not os.path.exists("/dev/loop-control"):
        raise support.Skip("there is no /dev/fuse or no /dev/loop-control")
    support.take_mounts_apart()
    source = sandbox.random_file("source", 24 * MIB)
    image = sandbox.file("image", bytes(128 * MIB))
    fuse, mount, copy = (sandbox.path / name for name in ("fuse", "mount", "copy"))
    for directory in (fuse, mount, copy):
        directory.mkdir()
    run("mkfs.ext4", "-q", "-F", image)
    with Loop(image) as loop, Mounted(loop.device, mount):  # before Foreshadow knew of it
        ext4_copy(source, mount)
        run("cp", "-a", mount / "tree", copy)
    run("fallocate", "-l", str(128 * MIB), image)  # mkfs has given its space back
    server = sandbox.up()
    volume = Over(server, "db", image)
    with Nbdfuse(volume, fuse), Loop(fuse / "nbd") as loop:
        run("e2fsck", "-f", "-n", loop.device)
        with Mounted(loop.device, mount):
            run("diff", "-r", copy / "tree", mount / "tree")
            run("cp", source, mount / "second")
    volume.grow(512 * MIB)
    for _ in range(4):
        volume.grant(size="64MiB")
    with Nbdfuse(volume, fuse), Loop(fuse / "nbd") as loop:
        run("losetup", "-c", loop.device)
        assert int(run("blockdev", "--getsize64", loop.device)) == 512 * MIB
        # Mounted, it may be resized too, by who has CAP_SYS_RESOURCE; containers have not.
        run("e2fsck", "-f", "-p", loop.device)
        run("resize2fs", loop.device)
        with Mounted(loop.device, mount):
            for i in range(6):
                run("cp", source, mount / f"more-{i}")
            run("sync", "-f", mount)
        run("e2fsck", "-f", "-n", loop.device)
    server.stop()
    server.start()
    with Nbdfuse(volume, fuse), Loop(fuse / "nbd") as loop:
        run("e2fsck", "-f", "-n", loop.device)
        with Mounted(loop.device, mount):
            run("diff", "-r", copy / "tree", mount / "tree")
            for i in range(6):
                run("cmp", source, mount / f"more-{i}")
    assert volume.show()["failed_writes"] == 0
    volume.check()


def grow(sandbox):
    """The size that clients see grows while they are connected, and stays grown."""
    server = sandbox.up()
    volume = server.create("db", size="64MiB")
    handle = support.connect(volume)
    assert handle.get_size() == 64 * MIB
    server.cli("volume", "grow", "db", "--size", "1GiB")
    server.cli("volume", "grow", "db", "--size", "1GiB")
    fresh = support.connect(volume)
    assert fresh.get_size() == GIB, "a new handshake shows it"
    fresh.pwrite(b"q" * 4096, GIB - 4096, support.libnbd().CMD_FLAG_FUA)
    fresh.shutdown()
    handle.set_strict_mode(0)
    assert bytes(handle.pread(4096, GIB - 4096)) == b"q" * 4096, "an old session may use the new range"
    handle.shutdown()
    server.kill()
    server.start()
    assert read(volume, 4096, at=GIB - 4096) == b"q" * 4096
    events = [e["kind"] for e in server.cli("events")]
    assert events.count("volume.grown") == 2, events
    volume.check()


def wall(sandbox):
    """In the band writes are slowed down, visibly; at the wall they are held as long as the policy says, and
    the policy can change; a shadow ends both."""
    server = sandbox.up()
    server.pool("tiny", "40MiB")
    volume = server.create("db", pool="tiny", primary="16MiB", hold_timeout="200ms", backpressure="1MiB")
    volume.wait_for(lambda shown: shown["band"] == MIB and shown["hold_timeout_ms"] == 200)
    capacity = volume.show()["capacity"]
    handle = support.connect(volume)
    cluster = 64 * KIB
    at = 0
    failed = False
    while at < capacity + 4 * cluster and not failed:
        try:
            handle.pwrite(b"w" * cluster, at)
            at += cluster
        except support.libnbd().Error as error:
            failed = True
            assert error.errno == "ENOSPC", error
    assert failed and at == capacity // cluster * cluster, (at, capacity)
    shown = volume.refresh()
    assert shown["paced"] >= 14 and 0 < shown["pace_us_max"] < 1_000_000, shown
    assert shown["holds"] >= 1 and shown["hold_us_max"] >= 200_000, shown
    kinds = [e["kind"] for e in server.cli("events")]
    assert "pace.began" in kinds and "hold.began" in kinds, kinds
    shown = server.cli("volume", "set", "db", "--hold-timeout", "60s", "--backpressure", "off")
    assert shown["band"] == 0 and shown["hold_timeout_ms"] == 60_000, shown
    volume.grant(size="8MiB", pool="tiny")
    handle.pwrite(b"v" * cluster, at)
    handle.shutdown()
    server.stop()
    server.start()
    shown = volume.show()
    assert shown["band"] == 0 and shown["hold_timeout_ms"] == 60_000, "the policy is noted"
    volume.check()


if __name__ == "__main__":
    support.main({"adopt": adopt, "redirect_all": redirect_all, "trim": trim, "refusals": refusals,
                  "block_device": block_device, "ext4": ext4, "grow": grow, "wall": wall})
