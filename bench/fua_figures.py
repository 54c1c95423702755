"""4 KiB writes that must each be durable, at queue depth 32, beside the same writes without a server.

Who writes to the disk, a server or fio on the plain file, runs on WRITER_CORE: the same one for all, and of
two cores the one that the disk here does not interrupt, which is the better place for all three. Nobody goes
ahead of other programs: the kernel ends direct writes in threads of its own, and whoever goes ahead of those
is woken for each single one.
"""
import json
import os
import shutil
import statistics
import subprocess

import load
import servers

MIB = 1 << 20
OURS, RAW, BARE = "foreshadow", "foreshadow-bench-raw", "the file itself"
DEPTH = 32
WRITER_CORE, OTHER_CORE = servers.CLIENT_CORE, servers.SERVER_CORE
BARE_WORDS = ["--rw=randwrite", "--bs=4k", "--direct=1", "--sync=dsync", "--ioengine=io_uring",
              f"--iodepth={DEPTH}", "--norandommap", "--time_based"]


def fio(image, *words):
    """fio on a plain file; its only job's report of writes."""
    done = subprocess.run(servers.pinned(WRITER_CORE) + [
        "fio", "--name=bench", f"--filename={image}", "--output-format=json", *words], capture_output=True,
        text=True, timeout=load.RUN_SECONDS_MAX, check=True, start_new_session=True)
    return json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]["write"]


def bare(image, size, seconds):
    report = fio(image, *BARE_WORDS, f"--size={size}", f"--runtime={seconds}")
    latency = report["clat_ns"]["percentile"]
    return {"iops": report["iops"], "p50_us": latency["50.000000"] / 1e3,
            "p99_us": latency["99.000000"] / 1e3}


def served(program, server, size, seconds):
    """fio's nbd engine has no FUA, so this is a client of our own."""
    done = subprocess.run(servers.pinned(OTHER_CORE) + [
        program, server.uri, str(size), str(seconds), str(DEPTH)], capture_output=True, text=True,
        timeout=load.RUN_SECONDS_MAX, check=False, start_new_session=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def measure(binary, directory, size, rounds, seconds, say):
    """{who: [sample of each round]}, interleaved, all on the disk that `directory` is on."""
    program = servers.bench_program("foreshadow-bench-fua")
    image = os.path.join(directory, "bare")
    primary = size + size // 64 + 256 * MIB
    fio(image, "--rw=write", "--bs=1m", "--direct=1", "--ioengine=io_uring", "--iodepth=8", "--end_fsync=1",
        f"--size={size}")
    with open(os.path.join(directory, "plain"), "wb") as plain:
        os.posix_fallocate(plain.fileno(), 0, size)
    out = {BARE: [], OURS: [], RAW: []}
    place = {"core": WRITER_CORE, "first": None}
    with servers.Foreshadow(binary, os.path.join(directory, "fua"), primary, **place) as ours, \
            servers.raw(directory, "plain", **place) as raw:
        ours.create_volume("bench", size, primary)
        runs = [(BARE, lambda: bare(image, size, seconds)),
                (OURS, lambda: served(program, ours, size, seconds)),
                (RAW, lambda: served(program, raw, size, seconds))]
        for server in (ours, raw):
            load.fill(server, directory, size)
        for number in range(rounds + 1):
            for who, run in runs if number % 2 == 0 else reversed(runs):
                sample = run()
                if number == 0:
                    continue  # blocks that a file system or a disk sees for the first time cost more
                out[who].append(sample)
                say(f"  {who:21} {sample['iops']:8.0f} IOPS, p50 {sample['p50_us']:.0f} us,"
                    f" p99 {sample['p99_us']:.0f} us")
    return out


def ratio(samples, theirs):
    """The rate of ours by theirs: the median over the rounds."""
    return statistics.median(a["iops"] / b["iops"] for a, b in zip(samples[OURS], samples[theirs]))


def fua(binary, directory, size, rounds, seconds, say):
    below = os.path.join(directory, "fua-figures")
    os.makedirs(os.path.join(below, "fua"))
    try:
        return measure(binary, below, size, rounds, seconds, say)
    finally:
        shutil.rmtree(below, ignore_errors=True)
