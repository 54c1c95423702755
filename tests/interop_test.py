"""Packaged NBD clients against a volume that grows underneath them.

Each test starts with 16 MiB of primary, so that what the client writes lands in shadows, and grants and
merges shadows meanwhile. Each ends with the same questions: did a write fail, was one held, is every
invariant on disk true, did it grow.
"""
import json
import os
import pathlib
import select
import subprocess

import support
from support import GIB, KIB, MIB, Churn, need, run


def nbdinfo(sandbox):
    need("nbdinfo")
    volume = sandbox.up().small_volume()
    other = volume.server.create("other", size="64MiB", primary="64MiB")
    run("nbdsh", "-u", volume.uri(), "-c", "h.pwrite(b'x' * 65536, 1 << 20)", "-c", "h.flush()")
    with Churn(volume) as churn:
        rounds = 0
        while rounds == 0 or not churn.enough():
            rounds += 1
            # About the content it asks file(1), and prints what is no UTF-8 where that is not installed.
            export = json.loads(run("nbdinfo", "--json", "--no-content", volume.uri()))["exports"][0]
            assert export["export-name"] == "db" and export["export-size"] == GIB, export
            for able in ("can_flush", "can_fua", "can_trim", "can_zero", "can_df", "can_multi_conn",
                         "can_cache", "can_fast_zero"):
                assert export[able] is True, f"{able}: {export}"
            assert export["is_read_only"] is False and "base:allocation" in export["contexts"], export
            assert export["block_size_maximum"] == 32 * MIB, export

            extents = json.loads(run("nbdinfo", "--json", "--map", volume.uri()))
            seen = [(e["offset"], e["length"], e["type"]) for e in extents]
            assert seen == [(0, MIB, 3), (MIB, 64 * KIB, 0), (MIB + 64 * KIB, GIB - MIB - 64 * KIB, 3)], seen

            listed = json.loads(run("nbdinfo", "--list", "--json", f"nbd+unix:///?socket={volume.socket()}"))
            assert sorted(e["export-name"] for e in listed["exports"]) == ["db", "other"], listed
    assert run("nbdinfo", "--size", other.uri()).strip() == str(64 * MIB)
    volume.expect_well(merged=2)


def nbdcopy_random(sandbox):
    need("nbdcopy")
    volume = sandbox.up().small_volume()
    image, back = sandbox.random_file("image", 120 * MIB), sandbox.path / "back"
    with Churn(volume):
        run("nbdcopy", "--flush", image, volume.uri())
        run("nbdcopy", volume.uri(), back)
        run("cmp", "--bytes", 120 * MIB, image, back)
        # Over what is there, in other pieces: the overwrites go in place, the map is as it was.
        back.unlink()
        run("nbdcopy", "--request-size=65536", "--connections=2", image, volume.uri())
        run("nbdcopy", "--request-size=1048576", volume.uri(), back)
        run("cmp", "--bytes", 120 * MIB, image, back)
    assert back.stat().st_size == GIB
    volume.expect_well()


def nbdcopy_sparse(sandbox):
    need("nbdcopy", "nbdinfo")
    volume = sandbox.up().small_volume()
    image, back = sandbox.path / "image", sandbox.path / "back"
    with open(image, "wb") as out:
        for at in range(0, 60):
            out.seek(at * 16 * MIB)
            out.write(os.urandom(MIB + 4 * KIB))
        out.truncate(GIB)
    with Churn(volume):
        run("nbdcopy", "--destination-is-zero", "--flush", image, volume.uri())
        run("nbdcopy", volume.uri(), back)
        run("cmp", image, back)
        assert back.stat().st_blocks * 512 < 128 * MIB, "the copy back is not sparse"
        # Without --destination-is-zero the holes are written as zeroes, which must not take space.
        run("nbdcopy", image, volume.uri())
        run("cmp", "--bytes", 256 * MIB, image, back)
    shown = volume.expect_well(merged=2)
    assert shown["used"] < 128 * MIB, f"{shown['used']} bytes are used: zeroes took space"


def qemu_img(sandbox):
    need("qemu-img")
    volume = sandbox.up().small_volume(size="96MiB")
    image, qcow = sandbox.random_file("image", 96 * MIB), sandbox.path / "image.qcow2"
    other = sandbox.random_file("other", 96 * MIB)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", other, qcow)
    with Churn(volume):
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, volume.uri())
        same = run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, volume.uri())
        assert "identical" in same, same
        # From a format of its own, out of order and with several requests at once.
        run("qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "qcow2", "-O", "raw", qcow, volume.uri())
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", qcow, volume.uri())
        differs = run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, volume.uri(), ok=False)
        assert differs.returncode == 1, differs
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", volume.uri(), sandbox.path / "back")
        run("cmp", other, sandbox.path / "back")
        info = json.loads(run("qemu-img", "info", "--output=json", volume.uri()))
        assert info["virtual-size"] == 96 * MIB, info
    volume.expect_well()


def qemu_io(sandbox):
    need("qemu-io")
    volume = sandbox.up().small_volume()

    def qemu(*commands):
        words = [word for command in commands for word in ("-c", command)]
        out = run("qemu-io", "-f", "raw", *words, volume.uri())
        assert "Pattern verification failed" not in out and "error" not in out.lower(), out

    with Churn(volume) as churn:
        rounds = 0
        while rounds == 0 or not churn.enough():
            base = rounds % 8 * 16 * MIB
            at = lambda offset: base + offset  # noqa: E731
            qemu(f"write -P 0x11 {at(0)} 4M", f"write -P 0x22 -f {at(MIB)} 64k", f"read -P 0x11 {at(0)} 1M",
                 f"read -P 0x22 {at(MIB)} 64k", f"read -P 0x11 {at(MIB + 64 * KIB)} 1M", "flush",
                 # Zeroes: aligned, not aligned, and with unmapping; the neighbours stay.
                 f"write -z {at(2 * MIB)} 128k", f"read -P 0 {at(2 * MIB)} 128k",
                 f"read -P 0x11 {at(2 * MIB + 128 * KIB)} 64k",
                 f"write -z {at(3 * MIB + 512)} 70k", f"read -P 0 {at(3 * MIB + 512)} 70k",
                 f"read -P 0x11 {at(3 * MIB)} 512", f"write -z -u {at(256 * KIB)} 64k",
                 f"read -P 0 {at(256 * KIB)} 64k",
                 # Odd lengths and offsets, which qemu passes on since the export takes single bytes.
                 f"write -P 0x33 {at(512 * KIB + 1)} 4095", f"read -P 0x33 {at(512 * KIB + 1)} 4095",
                 f"read -P 0x11 {at(512 * KIB)} 1", f"read -P 0x11 {at(512 * KIB + 4096)} 4096",
                 f"write -P 0x44 {at(600 * KIB + 777)} 9999", f"read -P 0x44 {at(600 * KIB + 777)} 9999",
                 # Discarded clusters read as zeroes here, and can be written again.
                 f"discard {at(3 * MIB + 512 * KIB)} 256k", f"read -P 0 {at(3 * MIB + 512 * KIB)} 256k",
                 f"write -P 0x55 {at(3 * MIB + 512 * KIB)} 64k",
                 f"read -P 0x55 {at(3 * MIB + 512 * KIB)} 64k", f"aio_write -P 0x66 {at(8 * MIB)} 1M",
                 f"aio_write -P 0x77 {at(10 * MIB)} 1M", "aio_flush",
                 f"read -P 0x66 {at(8 * MIB)} 1M", f"read -P 0x77 {at(10 * MIB)} 1M")
            rounds += 1
    volume.expect_well(merged=2)


def nbdsh(sandbox):
    need("nbdsh")
    volume = sandbox.up().small_volume()
    script = pathlib.Path(__file__).with_name("nbdsh_script.py")
    with Churn(volume) as churn:
        rounds = 0
        while rounds == 0 or not churn.enough():
            run("nbdsh", "-c", "h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)", "-c",
                f"h.connect_uri('{volume.uri()}')", "-c", f"base = {rounds % 16} * (4 << 20)", "-c",
                f"exec(open('{script}').read())")
            rounds += 1
    volume.expect_well(merged=2)


def fio_words(volume, name, *words):
    return ["fio", f"--name={name}", "--ioengine=nbd", f"--uri={volume.uri()}", "--randrepeat=0",
            "--group_reporting", *words]


def fio(sandbox):
    need("fio")
    if " nbd" not in run("fio", "--enghelp").replace("\t", " "):
        raise support.Skip("fio is built without its nbd engine")
    volume = sandbox.up().small_volume()
    with Churn(volume):
        run(*fio_words(volume, "mixed", "--rw=randwrite", "--bsrange=512-128k", "--blockalign=512",
                       "--size=96M", "--iodepth=32", "--fsync=64", "--verify=crc32c", "--do_verify=1",
                       "--verify_fatal=1"))
        run(*fio_words(volume, "readwrite", "--rw=randrw", "--bs=4k", "--size=32M", "--offset=96M",
                       "--iodepth=16", "--fsync=16", "--verify=crc32c", "--verify_backlog=256",
                       "--verify_fatal=1"))
    volume.expect_well()


def ext4_copy(source, mount):
    """A tree of many small files and a large one."""
    tree = pathlib.Path(mount) / "tree"
    tree.mkdir()
    data = source.read_bytes()
    for i in range(40):
        folder = tree / f"folder-{i}"
        folder.mkdir()
        for j in range(20):
            (folder / f"file-{j}").write_bytes(data[i * 4096:i * 4096 + j * 1511])
    run("cp", source, tree / "large")
    run("sync", "-f", tree)  # of this file system alone: the others may have much to write


def ext4(sandbox):
    if os.geteuid() != 0:
        raise support.Skip("mounting a loop device needs root")
    need("nbdfuse", "mkfs.ext4", "e2fsck", "losetup", "mount", "umount", "diff")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or not os.path.exists("/dev/loop-control"):
        raise support.Skip("there is no /dev/fuse or no /dev/loop-control")
    support.take_mounts_apart()
    volume = sandbox.up().small_volume(size="512MiB")
    source = sandbox.random_file("source", 64 * MIB)
    fuse, mount, copy = (sandbox.path / name for name in ("fuse", "mount", "copy"))
    for directory in (fuse, mount, copy):
        directory.mkdir()
    with Churn(volume), Nbdfuse(volume, fuse), Loop(fuse / "nbd") as loop:
        run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", loop.device)
        with Mounted(loop.device, mount):
            ext4_copy(source, mount)
            run("cp", "-a", mount / "tree", copy)
        run("e2fsck", "-f", "-n", loop.device)
        with Mounted(loop.device, mount):
            run("diff", "-r", copy / "tree", mount / "tree")
            run("rm", "-r", mount / "tree" / "folder-3")
            run("cp", source, mount / "again")
        run("e2fsck", "-f", "-n", loop.device)
        with Mounted(loop.device, mount):
            run("cmp", source, mount / "again")
    volume.expect_well()
    # The file system is there after a restart of the server as well.
    volume.server.stop()
    volume.server.start()
    with Nbdfuse(volume, fuse), Loop(fuse / "nbd") as loop:
        run("e2fsck", "-f", "-n", loop.device)
        with Mounted(loop.device, mount):
            run("cmp", source, mount / "again")
    volume.check()


class Nbdfuse:
    """The volume as a file, `nbd` in the directory, for as long as the block lasts."""

    def __init__(self, volume, directory):
        self.volume, self.directory = volume, directory

    def __enter__(self):
        # -P makes it write its process id once the mount point can be used; a fifo is that event.
        ready = self.directory.parent / "nbdfuse.ready"
        ready.unlink(missing_ok=True)
        os.mkfifo(ready)
        held = os.open(ready, os.O_RDWR)
        self.process = subprocess.Popen(["nbdfuse", "-P", str(ready), str(self.directory), self.volume.uri()],
                                        stdin=subprocess.DEVNULL, preexec_fn=support.die_with_parent)
        try:
            read_with_deadline(held)
        finally:
            os.close(held)
        return self

    def __exit__(self, *_):
        run("fusermount3" if support.shutil.which("fusermount3") else "fusermount", "-u", self.directory)
        self.process.wait(timeout=support.DEADLINE)


def read_with_deadline(fd):
    ready, _, _ = select.select([fd], [], [], support.DEADLINE)
    assert ready, "nbdfuse did not say that it is ready"
    os.read(fd, 64)


class Loop:
    def __init__(self, file):
        self.file = file

    def __enter__(self):
        self.device = run("losetup", "--show", "-f", self.file).strip()
        return self

    def __exit__(self, *_):
        run("losetup", "-d", self.device)


class Mounted:
    def __init__(self, device, directory):
        self.device, self.directory = device, directory

    def __enter__(self):
        run("mount", self.device, self.directory)
        return self

    def __exit__(self, *_):
        run("umount", self.directory)


if __name__ == "__main__":
    support.main({"nbdinfo": nbdinfo, "nbdcopy_random": nbdcopy_random, "nbdcopy_sparse": nbdcopy_sparse,
                  "qemu_img": qemu_img, "qemu_io": qemu_io, "nbdsh": nbdsh, "fio": fio, "ext4": ext4})
