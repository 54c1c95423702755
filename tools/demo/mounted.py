"""As root: ext4 on the volume, through nbdfuse and a loop device, used as any disk is."""
import json
import os
import shutil
import signal
import subprocess
import time

from demo import files
from demo.server import SetupError, run

MOUNT_S = 120
NEEDED = ("nbdfuse", "losetup", "mkfs.ext4", "e2fsck", "mount", "umount", "fstrim", "sync")


def why_not():
    """Why a volume cannot be mounted here; empty if it can."""
    if os.geteuid() != 0:
        return "mounting takes root, and this is not root"
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not os.path.exists(path):
            return f"mounting takes {path}, which is not here"
    missing = [name for name in NEEDED if shutil.which(name, path=search_path()) is None]
    return f"mounting takes {', '.join(missing)}, not installed here" if missing else ""


def search_path():
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def fuse_unmount(path):
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    command = [tool, "-u", path] if tool else ["umount", path]
    for _ in range(50):  # a loop device lets go of its file a moment after it is detached
        if run(command, MOUNT_S, check=False).returncode == 0 or not os.path.ismount(path):
            return
        time.sleep(0.1)
    run(["umount", "-l", path], MOUNT_S, check=False)


def unescape(path):
    """Mount tables write blanks and the like as octal."""
    for code in ("040", "011", "012", "134"):
        path = path.replace("\\" + code, chr(int(code, 8)))
    return path


def mounts_under(folder):
    """(mount point, type), the last mounted first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        for line in table:
            words = line.split()
            point = unescape(words[4])
            if point.startswith(folder + "/"):
                found.append((point, words[words.index("-") + 1]))
    return found[::-1]


def loops_under(folder):
    listed = run(["losetup", "--json", "--list", "-O", "NAME,BACK-FILE"], check=False).stdout.strip()
    devices = json.loads(listed)["loopdevices"] if listed else []
    return [entry["name"] for entry in devices if (entry["back-file"] or "").startswith(folder + "/")]


def remove_leftovers(folder, say):
    """Undoes what a demo that was killed left attached under its folder."""
    if why_not():
        return
    mounts = mounts_under(folder)
    for point, kind in mounts:
        if not kind.startswith("fuse"):
            say(f"an earlier demo left {point} mounted: unmounting it")
            if run(["umount", point], MOUNT_S, check=False).returncode != 0:
                run(["umount", "-l", point], MOUNT_S, check=False)
    for device in loops_under(folder):
        say(f"an earlier demo left {device} attached: detaching it")
        run(["losetup", "-d", device], check=False)
    for point, kind in mounts:
        if kind.startswith("fuse"):
            say(f"an earlier demo left {point} mounted: unmounting it")
            fuse_unmount(point)


class Mounted:
    """The volume as a mounted file system. attach() and detach() may alternate; detach() may be repeated."""

    words = "ext4 on the volume, through nbdfuse and a loop device"

    def __init__(self, folder, uri, workers, say):
        os.environ["PATH"] = search_path()
        self.uri, self.workers, self.say = uri, workers, say
        self.fuse = os.path.join(folder, "nbd")
        self.disk = os.path.join(self.fuse, "disk")
        self.root = os.path.join(folder, "mnt")
        self.log = os.path.join(folder, "nbdfuse.log")
        self.process = None
        self.device = None
        self.mounted = False
        for path in (self.fuse, self.root):
            os.makedirs(path, exist_ok=True)

    def attach(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(["nbdfuse", self.disk, self.uri], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 30
        while not os.path.exists(self.disk):
            if self.process.poll() is not None or time.monotonic() > end:
                with open(self.log, encoding="utf-8", errors="replace") as log:
                    raise SetupError(f"nbdfuse did not come up: {log.read()[-1000:].strip()}\n"
                                     "Run as another user than root for the demo without a mount.")
            time.sleep(0.05)
        self.device = run(["losetup", "--find", "--show", self.disk]).stdout.strip()

    def mount(self):
        run(["mount", "-t", "ext4", self.device, self.root], MOUNT_S)
        self.mounted = True

    def detach(self):
        """Every step is tried, whatever becomes of the one before it. Returns what failed, in words."""
        wrong = []
        if self.mounted or os.path.ismount(self.root):
            if run(["umount", self.root], MOUNT_S * 2, check=False).returncode != 0:
                wrong.append(f"{self.root} could not be unmounted, so it was unmounted lazily")
                run(["umount", "-l", self.root], MOUNT_S, check=False)
            self.mounted = False
        if self.device:
            if run(["losetup", "-d", self.device], MOUNT_S, check=False).returncode != 0:
                wrong.append(f"{self.device} could not be detached")
            self.device = None
        if self.process:
            fuse_unmount(self.fuse)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                wrong.append("nbdfuse did not end, so it was ended")
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
            self.process = None
        return wrong

    def prepare(self):
        self.attach()
        start = time.monotonic()
        # 1 TiB has 16 GiB of inode tables; zeros that are written to an unmapped place take no space.
        run(["mkfs.ext4", "-q", "-F", "-m", "0", self.device], 600)
        self.say(f"mkfs.ext4 on 1 TiB took {time.monotonic() - start:.1f} s")
        self.mount()

    def write(self, items):
        return self.workers.each(files.copy_batch, self.root, files.batches(items))

    def flush(self):
        """Raises RuntimeError if a write failed on its way from the page cache to the volume."""
        run(["sync", "-f", self.root], 1800)

    def dirty(self):
        """Bytes that the kernel has yet to write; those of other file systems are among them."""
        with open("/proc/meminfo", encoding="utf-8") as table:
            facts = dict(line.split(":") for line in table)
        return sum(int(facts[name].split()[0]) * 1024 for name in ("Dirty", "Writeback"))

    def reattach(self):
        """Takes all down, makes the kernel forget it, and attaches again. Returns what was wrong."""
        wrong = self.detach()
        try:
            with open("/proc/sys/vm/drop_caches", "w", encoding="utf-8") as caches:
                caches.write("3")
            self.say("caches are dropped")
        except OSError as error:
            self.say(f"caches could not be dropped ({error.strerror}); a new loop device starts with none")
        self.attach()
        checked = run(["e2fsck", "-fn", self.device], 1800, check=False)
        if checked.returncode == 0:
            self.say(f"e2fsck -fn: clean; {checked.stdout.strip().splitlines()[-1]}")
        else:
            wrong.append(f"e2fsck -fn found errors: {(checked.stdout + checked.stderr).strip()[-1000:]}")
        self.mount()
        return wrong

    def verify(self, copies):
        return self.workers.each(files.verify_batch, self.root, files.batches(copies))

    def delete(self, copies):
        for copy in copies:
            os.unlink(os.path.join(self.root, copy.name))
        run(["sync", "-f", self.root], 600)

    def trim(self):
        """fstrim's way: ext4, the loop device, a hole punched in nbdfuse's file, an NBD trim."""
        return run(["fstrim", "-v", self.root], 1800).stdout.strip()

    def hint(self):
        return f"the file system is mounted at {self.root}"
