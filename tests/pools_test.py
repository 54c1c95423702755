"""Pools that are not what they were: away, somebody else's, or with files that are not theirs."""
import os

import support
from support import MIB, Server


def write_and_flush(volume, data):
    handle = support.connect(volume)
    handle.pwrite(data, 0)
    handle.flush()
    handle.shutdown()


def read(volume, length):
    handle = support.connect(volume)
    data = bytes(handle.pread(length, 0))
    handle.shutdown()
    return data


def served_from(sandbox, directory, size="64MiB"):
    """A server with the volume db in a pool in that directory."""
    server = sandbox.up("first")
    directory.mkdir()
    server.cli("pool", "add", "here", "--dir", directory)
    return server, server.create("db", size=size, primary="16MiB", pool="here")


def away(sandbox):
    """An empty directory in the place of a pool is not the pool; what was in it comes back with it."""
    directory, elsewhere = sandbox.path / "big", sandbox.path / "elsewhere"
    server, volume = served_from(sandbox, directory)
    data = os.urandom(MIB)
    write_and_flush(volume, data)
    server.stop()
    directory.rename(elsewhere)
    directory.mkdir()  # as a mount point without its file system
    server.start()
    shown = volume.show()
    assert not shown["uri"] and "not mounted" in shown["read_only_reason"], shown
    words = ["volume", "create", "other", "--size", "64MiB", "--primary", "16MiB", "--pool", "here"]
    refused = server.cli(*words, ok=False)
    assert refused.returncode == 1, refused
    assert not list(directory.iterdir()), "nothing is put where the file system is not mounted"
    server.stop()
    directory.rmdir()
    elsewhere.rename(directory)
    server.start()
    assert read(volume, len(data)) == data
    server.stop()


def found(sandbox):
    """What comes with a pool is known to control at once, and grows."""
    directory = sandbox.path / "moved"
    first, volume = served_from(sandbox, directory, "512MiB")
    write_and_flush(volume, os.urandom(MIB))
    first.stop()
    second = Server(sandbox, "up", "second")
    second.cli("pool", "add", "there", "--dir", directory)
    support.Volume(second, "db").wait_for(lambda shown: shown["uri"])
    handle = support.connect(support.Volume(second, "db"))
    for at in range(0, 400 * MIB, MIB):
        handle.pwrite(b"x" * MIB, at)
    handle.flush()
    handle.shutdown()
    second.stop()


def in_use(sandbox):
    """What another agent serves is not removed, and a backing that was renamed is not taken for another."""
    directory = sandbox.path / "shared"
    first, volume = served_from(sandbox, directory)
    second = Server(sandbox, "up", "second")
    second.cli("pool", "add", "shared", "--dir", directory)
    broken = support.Volume(second, "db").wait_for(lambda shown: shown["read_only_reason"], second)
    assert "locked" in broken["read_only_reason"], broken
    refused = second.cli("volume", "rm", "db", ok=False)
    assert refused.returncode == 1 and "in use" in refused.stderr, refused
    data = os.urandom(MIB)
    write_and_flush(volume, data)
    second.stop()
    first.stop()
    backing = next(directory.glob("*.seg"))
    kept = backing.name
    backing.rename(backing.with_name(kept[:37] + "0" * 8 + kept[45:]))
    first.start()
    assert "renamed" in volume.show()["read_only_reason"], volume.show()
    first.stop()
    next(directory.glob("*.seg")).rename(directory / kept)
    first.start()
    assert read(volume, len(data)) == data
    first.stop()


def sparse(sandbox):
    """An image must have its space, and belongs to one volume, by whatever name it goes."""
    image = sandbox.file("image", b"\x07" * MIB)
    os.truncate(image, 64 * MIB)
    assert os.stat(image).st_blocks * 512 < 32 * MIB
    server = sandbox.up()
    words = ["volume", "adopt-device", "old", "--device", image, "--primary", "16MiB"]
    refused = server.cli(*words, ok=False)
    assert refused.returncode == 1 and f"fallocate -l {64 * MIB} {image}" in refused.stderr, refused
    support.run("fallocate", "-l", str(64 * MIB), image)
    server.cli(*words)
    alias = sandbox.path / "alias"
    alias.symlink_to(image)
    refused = server.cli("volume", "adopt-device", "again", "--device", alias, "--primary", "16MiB", ok=False)
    assert refused.returncode == 1 and "belongs to volume old" in refused.stderr, refused
    assert read(support.Volume(server, "old"), 2 * MIB) == b"\x07" * MIB + bytes(MIB)
    server.stop()


if __name__ == "__main__":
    support.main({"away": away, "found": found, "in_use": in_use, "sparse": sparse})
