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

SMALL = {"bs": "4k", "iodepth": 32, "norandommap": True, "time_based": True}
LARGE = {"bs": "1m", "iodepth": 8, "time_based": True}
LARGE_KINDS = ("read", "write", "randread", "randwrite")


def median_of(samples):
    """The median of each figure over a list of measure() results."""
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


def medians(samples):
    """{server: {kind: [samples]}} with each list turned into its median."""
    return {name: {kind: median_of(taken) for kind, taken in kinds.items()}
            for name, kinds in samples.items()}


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
        self.servers = []

    def path(self, name):
        return os.path.join(self.directory, name)

    def start(self):
        cache, aio = ("writeback" if self.in_memory else "none"), "io_uring"
        with open(self.path("raw"), "wb") as raw:
            raw.truncate(self.size)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.path("qcow2"), str(self.size)],
                       check=True, timeout=60)
        self.servers.append(self.foreshadow("mapped", self.size, self.size))
        self.servers.append(servers.nbdkit(self.directory, self.path("raw")))
        self.servers.append(servers.qemu_nbd(self.directory, self.path("raw"), "raw", cache, aio))
        self.servers.append(servers.qemu_nbd(self.directory, self.path("qcow2"), "qcow2", cache, aio))
        for server in self.servers:
            load.fill(server, self.directory, self.size)
        return self

    def foreshadow(self, name, size, mapped):
        """A fresh `foreshadow up` with one volume that can map `mapped` bytes without a shadow."""
        primary = mapped + mapped // 64 + 256 * MIB  # data, tables, journal and label
        directory = self.path(name)
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        server = servers.Foreshadow(self.binary, directory, primary)
        server.create_volume("bench", size, primary)
        return server

    def stop(self):
        for server in self.servers:
            server.stop()
        self.servers = []
        for name in ("raw", "qcow2", "mapped", "touched"):
            path = self.path(name)
            shutil.rmtree(path) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)

    def first_touch(self):
        """A fresh volume: 4 KiB writes to places never written, then the same writes again.

        Returns both samples and the map's memory per mapped TiB at the end.
        """
        spread = self.size * FIRST_TOUCH_SPREAD
        options = {"rw": "randwrite", "bs": "4k", "iodepth": 32, "size": spread, "io_size": self.size}
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

    def rounds(self, count, step):
        """Calls step(server, round) for every server in every round, each second round in reverse order."""
        for number in range(count):
            order = self.servers if number % 2 == 0 else list(reversed(self.servers))
            for server in order:
                step(server, number)


def small(bench, rounds, seconds, say):
    """{server: {"read"|"write"|"first touch"|"same again": median figures}}, and the map's memory."""
    samples, per_tib = {}, []

    def note(server, kind, sample):
        samples.setdefault(server, {}).setdefault(kind, []).append(sample)
        say(f"  {server:18} {kind:12} {sample['cpu_us']:6.2f} us CPU/IO (busiest thread"
            f" {sample['busiest_thread_us']:.2f})  {sample['iops']:8.0f} IOPS"
            f"  (others {sample['other_cores']:.1f} cores)")

    def step(server, _):
        for kind, pattern in (("read", "randread"), ("write", "randwrite")):
            note(server.name, kind, load.measure(server, bench.directory, rw=pattern, size=bench.size,
                                                 runtime=seconds, **SMALL))
        if server.name == "foreshadow":
            first, again, memory = bench.first_touch()
            note(server.name, "first touch", first)
            note(server.name, "same again", again)
            per_tib.append(memory)

    bench.rounds(rounds, step)
    figures = medians(samples)
    bench.servers[0].call("volume", "check", "bench")
    sequential = bench.servers[0].show("bench")
    memory = {"random_4k_bytes_per_mapped_tib": statistics.median(per_tib),
              "sequential_bytes_per_mapped_tib":
                  sequential["map_memory_bytes"] * (1 << 40) / sequential["used"]}
    return figures, memory


def large(bench, rounds, seconds, say):
    """{server: {pattern: median figures}} of foreshadow and nbdkit at 1 MiB, and the ratio of their rates."""
    samples = {}

    def step(server, number):
        if server.name not in ("foreshadow", "nbdkit -t4 file"):
            return
        for pattern in LARGE_KINDS:
            sample = load.measure(server, bench.directory, rw=pattern, size=bench.size, runtime=seconds,
                                  **LARGE)
            samples.setdefault(server.name, {}).setdefault(pattern, []).append(sample)
            say(f"  {server.name:18} {pattern:12} {sample['mib_s']:8.0f} MiB/s"
                f" {sample['cpu_us_mib']:7.0f} us CPU/MiB"
                f"  (others {sample['other_cores']:.1f} cores, round {number + 1})")

    bench.rounds(rounds, step)
    ratios = {}
    for pattern in LARGE_KINDS:
        pairs = zip(samples["foreshadow"][pattern], samples["nbdkit -t4 file"][pattern])
        ratios[pattern] = statistics.median(ours["mib_s"] / theirs["mib_s"] for ours, theirs in pairs)
    figures = medians(samples)
    return figures, ratios
