"""4 KiB I/O and 1 MiB throughput of foreshadow and its peers, in interleaved rounds."""
import mmap
import os
import shutil
import statistics
import subprocess

import load
import servers

GIB = 1 << 30
MIB = 1 << 20
FIRST_TOUCH_SPREAD = 4  # a first touch falls anywhere in this many times the bytes that are written

FIRST_TOUCH_SECONDS = 60  # a slow disk does not get through all of it

SMALL = {"bs": "4k", "iodepth": 32, "norandommap": True, "time_based": True}
LARGE = {"bs": "1m", "iodepth": 8, "time_based": True}
OURS, NBDKIT, QCOW2 = "foreshadow", "nbdkit -t4 file", "qemu-nbd qcow2"
RAW, MANY = "foreshadow-bench-raw", "16 segments"
SEGMENTS = 16
CHECKED = ("chk read", "chk write")  # of a volume with data checksums
LARGE_KINDS = ("read", "write", "randread", "randwrite")


class Samples:
    """What measure() gave, by server and kind, kept apart by the order in which the files were made.

    That order decides which memory a file gets, and with it up to a tenth of a copy's time: each comparison
    is made in both orders.
    """

    def __init__(self):
        self.taken = {}  # {(server, kind): {order: [sample]}}

    def add(self, server, kind, order, sample):
        self.taken.setdefault((server, kind), {}).setdefault(order, []).append(sample)

    def figures(self):
        """{server: {kind: figures}}: of each order the median, of these the mean."""
        out = {}
        for (server, kind), orders in self.taken.items():
            medians = [{key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
                       for samples in orders.values()]
            out.setdefault(server, {})[kind] = {key: statistics.mean(row[key] for row in medians)
                                                for key in medians[0]}
        return out

    def ratio(self, figure, ours, theirs):
        """One figure of `ours`, a (server, kind), by that of `theirs`: the median over the rounds of
        an order, the geometric mean over the orders."""
        by_order = []
        for order, samples in self.taken[ours].items():
            pairs = zip(samples, self.taken[theirs][order])
            by_order.append(statistics.median(a[figure] / b[figure] for a, b in pairs))
        return statistics.geometric_mean(by_order)


def fault_in(directory):
    """Touches each page of every file, so that the memory behind it is there before anything is measured: a
    page new to a virtual machine costs its first writer 5 to 15 microseconds, whichever server that is.

    By mapping: read() passes over reserved pages that were never written.
    """
    for name in os.listdir(directory):
        with open(os.path.join(directory, name), "rb") as file:
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
                sum(pages[::mmap.PAGESIZE])


class Bench:
    """The servers of one comparison, filled and running, with their files below `directory`."""

    def __init__(self, binary, directory, size, in_memory):
        self.binary = binary
        self.directory = directory
        self.size = size
        self.in_memory = in_memory
        self.order = 0
        self.servers = []

    def path(self, name):
        return os.path.join(self.directory, name)

    def start(self, order):
        """Makes the files and starts the servers, in this order: 0 is ours first, 1 is ours last."""
        self.order = order
        cache, aio = ("writeback" if self.in_memory else "none"), "io_uring"
        with open(self.path("raw"), "wb") as raw:
            raw.truncate(self.size)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.path("qcow2"), str(self.size)],
                       check=True, timeout=60)
        with open(self.path("plain"), "wb") as plain:
            os.posix_fallocate(plain.fileno(), 0, self.size)
        starts = [lambda: self.foreshadow("mapped", self.size, self.size),
                  lambda: servers.raw(self.directory, "plain"),
                  self.many_segments,
                  lambda: servers.nbdkit(self.directory, self.path("raw")),
                  lambda: servers.qemu_nbd(self.directory, self.path("raw"), "raw", cache, aio),
                  lambda: servers.qemu_nbd(self.directory, self.path("qcow2"), "qcow2", cache, aio)]
        for start in starts if order == 0 else reversed(starts):
            server = start()
            self.servers.append(server)
            load.fill(server, self.directory, self.size)

    def foreshadow(self, name, size, mapped, *flags):
        """A fresh `foreshadow up` with one volume that can map `mapped` bytes without a shadow."""
        primary = mapped + mapped // 64 + 256 * MIB  # data, tables, journal and label
        directory = self.path(name)
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        server = servers.Foreshadow(self.binary, directory, primary)
        server.create_volume("bench", size, primary, *flags)
        return server

    def many_segments(self):
        """A volume whose data will lie in SEGMENTS segments, one filled after the other."""
        backing = self.size // SEGMENTS + self.size // SEGMENTS // 64 + 8 * MIB
        directory = self.path("many")
        os.makedirs(directory)
        server = servers.Foreshadow(self.binary, directory, backing, MANY)
        server.add_pool("spare", os.path.join(directory, "spare"), SEGMENTS * backing)
        server.create_volume("bench", self.size, backing)
        for _ in range(SEGMENTS - 1):
            server.call("shadow", "grant", "bench", "--pool", "spare", "--size", str(backing))
        return server

    def stop(self):
        for server in self.servers:
            server.stop()
        self.servers = []
        for name in ("raw", "plain", "qcow2", "mapped", "many", "touched", "checked"):
            path = self.path(name)
            shutil.rmtree(path) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)

    def checked(self, seconds):
        """A filled volume with data checksums: samples of its reads and overwrites."""
        server = self.foreshadow("checked", self.size, self.size, "--checksums")
        try:
            load.fill(server, self.directory, self.size)
            server.call("volume", "check", "bench")
            return [load.measure(server, self.directory, rw=pattern, size=self.size, runtime=seconds, **SMALL)
                    for pattern in ("randread", "randwrite")]
        finally:
            server.stop()
            shutil.rmtree(self.path("checked"), ignore_errors=True)

    def first_touch(self):
        """A fresh volume: 4 KiB writes to places never written, then the same writes again.

        Returns both samples and the map's memory per mapped TiB at the end.
        """
        spread = self.size * FIRST_TOUCH_SPREAD
        options = {"rw": "randwrite", "bs": "4k", "iodepth": 32, "size": spread, "io_size": self.size,
                   "runtime": FIRST_TOUCH_SECONDS}
        server = self.foreshadow("touched", spread, spread)
        try:
            if self.in_memory:
                fault_in(os.path.join(self.path("touched"), "pool"))
            first = load.measure(server, self.directory, **options)
            again = load.measure(server, self.directory, **options)
            server.call("volume", "check", "bench")  # its answer brings what `show` says up to date
            shown = server.show("bench")
            per_tib = shown["map_memory_bytes"] * (1 << 40) / shown["used"]
        finally:
            server.stop()
            shutil.rmtree(self.path("touched"), ignore_errors=True)
        return first, again, per_tib


def small(bench, seconds, samples, say):
    """Adds "read" and "write", of ours also "first touch" and "same again"; returns the map's memory."""
    memory = {}

    def note(server, kind, sample):
        samples.add(server, kind, bench.order, sample)
        say(f"  {server:18} {kind:12} {sample['cpu_us']:6.2f} us CPU/IO (busiest thread"
            f" {sample['busiest_thread_us']:.2f})  {sample['iops']:8.0f} IOPS"
            f"  (others {sample['other_cores']:.1f} cores)")

    for server in bench.servers:
        for kind, pattern in (("read", "randread"), ("write", "randwrite")):
            note(server.name, kind, load.measure(server, bench.directory, rw=pattern, size=bench.size,
                                                 runtime=seconds, **SMALL))
        if server.name == OURS:
            first, again, memory["random_4k_bytes_per_mapped_tib"] = bench.first_touch()
            note(server.name, "first touch", first)
            note(server.name, "same again", again)
            for kind, sample in zip(CHECKED, bench.checked(seconds)):
                note(server.name, kind, sample)
            server.call("volume", "check", "bench")
            shown = server.show("bench")
            memory["sequential_bytes_per_mapped_tib"] = shown["map_memory_bytes"] * (1 << 40) / shown["used"]
    return memory


def large(bench, seconds, samples, say):
    """Adds each pattern at 1 MiB, of foreshadow and nbdkit."""
    for server in bench.servers:
        if server.name not in (OURS, NBDKIT):
            continue
        for pattern in LARGE_KINDS:
            sample = load.measure(server, bench.directory, rw=pattern, size=bench.size, runtime=seconds,
                                  **LARGE)
            samples.add(server.name, pattern, bench.order, sample)
            say(f"  {server.name:18} {pattern:12} {sample['mib_s']:8.0f} MiB/s"
                f" {sample['cpu_us_mib']:7.0f} us CPU/MiB"
                f"  (others {sample['other_cores']:.1f} cores)")
