"""How fast a fold copies a shadow into the primary, beside `qemu-img commit` of as much data, and what it
costs the foreground meanwhile."""
import json
import os
import shutil
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import load
import servers

MIB, GIB = 1 << 20, 1 << 30
DATA = GIB            # in the shadow, as random 64 KiB over SPREAD
SPREAD = 4 * GIB
RANDOM = {"rw": "randwrite", "bs": "64k", "iodepth": 8, "norandommap": True, "size": SPREAD, "io_size": DATA}
QUIET_SECONDS = 3
WRITER_SECONDS = 20
REPORT_SECONDS = 20
CALM_SECONDS = 3
# Who asks for it is not to be measured: it starts a program of its own.
ASIDE = servers.pinned(servers.CLIENT_CORE) + ["nice", "-n", "19"]
SETTLED = 0.85        # of DATA: some of the places are written twice
TOUCHED = 4 * DATA    # a fold and what it frees meanwhile


def touch_memory(directory):
    """Leaves memory free that was in use a moment ago.

    A virtual machine gives what is free back to its host, page by page and within seconds, and whoever writes
    there first waits for the host. That is no property of a fold, nor of a commit: both fill new pages.
    """
    path = os.path.join(directory, "touched")
    block = bytes(MIB)
    with open(path, "wb") as file:
        for _ in range(TOUCHED // MIB):
            file.write(block)
    os.remove(path)


def make_shadowed(server, directory):
    """A volume most of whose data is in shadows; theirs, all that have any."""
    server.create_volume("bench", 2 * SPREAD, 128 * MIB)
    server.call("shadow", "grant", "bench", "--size", str(2 * DATA))
    load.fio(server, directory, **RANDOM)
    # The primary is full; what came after it is in shadows. Control knows of it with the next report, and may
    # grant what it finds is needed: that must have ended, or it would be measured.
    deadline = time.monotonic() + REPORT_SECONDS
    quiet_since = time.monotonic()
    while True:
        shown = server.show("bench")
        if any(segment["state"] == "granted" for segment in shown["segments"]):
            quiet_since = time.monotonic()
        if shown["used"] > SETTLED * DATA and time.monotonic() > quiet_since + CALM_SECONDS:
            return [segment for segment in shown["segments"]
                    if segment["role"] == "shadow" and segment["used"] > 0]
        if time.monotonic() > deadline:
            raise RuntimeError(f"the volume reports {shown['used']} bytes used, expected about {DATA}")
        time.sleep(0.1)


def fold_all(server, shadows):
    """Seconds that it takes."""
    began = time.monotonic()
    for shadow in shadows:
        server.call("shadow", "fold", "bench", str(shadow["id"]), before=ASIDE)
    return time.monotonic() - began


def percentile_us(log, begin, end):
    """99th percentile of the latencies in a log of fio's that ended between two moments, in microseconds."""
    with open(log, encoding="ascii") as file:
        rows = [line.split(",")[:2] for line in file]
    inside = sorted(int(latency) for at, latency in rows if begin <= int(at) / 1e3 < end)
    if len(inside) < 200:
        raise RuntimeError(f"{len(inside)} writes in {end - begin:.2f} s: no 99th percentile")
    return inside[len(inside) * 99 // 100] / 1e3


def fold_beside_writer(server, directory, shadows):
    """A writer of 4 KiB that begins QUIET_SECONDS before the fold and outlasts it."""
    log = os.path.join(directory, "latency")
    with ThreadPoolExecutor(1) as other:
        writing = other.submit(load.fio, server, directory, rw="randwrite", bs="4k", iodepth=8,
                               norandommap=True, size=SPREAD, rate_iops=4000, time_based=True,
                               runtime=WRITER_SECONDS, write_lat_log=log, log_unix_epoch=1)
        time.sleep(1 + QUIET_SECONDS)
        began = time.time()
        seconds = fold_all(server, shadows)
        ended = time.time()
        if writing.done():
            raise RuntimeError(f"the fold took {seconds:.1f} s, longer than the writer wrote")
        writing.result()
    log += "_clat.1.log"
    return {"seconds": seconds, "p99_quiet_us": percentile_us(log, began - QUIET_SECONDS, began),
            "p99_folding_us": percentile_us(log, began, ended)}


def fold_once(binary, directory, with_foreground):
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    with servers.Foreshadow(binary, directory, 6 * GIB) as server:
        shadows = make_shadowed(server, directory)
        used = sum(shadow["used"] for shadow in shadows)
        out = {"bytes": used}
        touch_memory(directory)
        if with_foreground:
            out |= fold_beside_writer(server, directory, shadows)
        else:
            out["seconds"] = fold_all(server, shadows)
        out["mib_s"] = used / MIB / out["seconds"]
    shutil.rmtree(directory, ignore_errors=True)
    return out


def commit_once(directory):
    """qemu-img commit of the same amount of random 64 KiB."""
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    base, top = os.path.join(directory, "base.raw"), os.path.join(directory, "top.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", base, str(SPREAD)], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top], check=True)
    with servers.qemu_nbd(directory, top, "qcow2", "writeback", "threads") as server:
        load.fio(server, directory, **RANDOM)
    held = json.loads(subprocess.run(["qemu-img", "info", "--output=json", top], capture_output=True,
                                     text=True,
                                     check=True).stdout)["actual-size"]
    touch_memory(directory)
    began = time.monotonic()
    subprocess.run(servers.pinned(servers.SERVER_CORE) + ["qemu-img", "commit", "-q", "-f", "qcow2", top],
                   check=True,
                   timeout=600, preexec_fn=servers.go_first, start_new_session=True)
    seconds = time.monotonic() - began
    shutil.rmtree(directory, ignore_errors=True)
    return {"bytes": held, "seconds": seconds, "mib_s": held / MIB / seconds}


def fold(binary, directory, rounds, say):
    place = os.path.join(directory, "fold")
    samples = {"fold": [], "commit": [], "beside a writer": []}
    for number in range(rounds):
        kinds = [("fold", lambda: fold_once(binary, place, False)), ("commit", lambda: commit_once(place)),
                 ("beside a writer", lambda: fold_once(binary, place, True))]
        for name, run in kinds if number % 2 == 0 else reversed(kinds):
            sample = run()
            samples[name].append(sample)
            more = (f", p99 of writes {sample['p99_quiet_us']:.0f} us before,"
                    f" {sample['p99_folding_us']:.0f} us meanwhile"
                    if "p99_quiet_us" in sample else "")
            say(f"  {name:16} {sample['bytes'] / MIB:6.0f} MiB in {sample['seconds']:.2f} s,"
                f" {sample['mib_s']:.0f} MiB/s{more}")
    ratio = statistics.median(a["mib_s"] / b["mib_s"] for a, b in zip(samples["fold"], samples["commit"]))
    beside = statistics.median(s["p99_folding_us"] / s["p99_quiet_us"] for s in samples["beside a writer"])
    return {"samples": samples, "rate_of_commit": ratio, "p99_ratio": beside}
