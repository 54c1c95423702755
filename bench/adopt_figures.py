"""How long a merge by adoption takes, for a small shadow and a large one, under a running write load."""
import os
import shutil
import sqlite3
import statistics
import time

import load
import servers

MIB = 1 << 20
PRIMARY = 256 * MIB
ROOM = 768 * MIB  # the shadow behind the one that is merged: what the load goes on into
MERGE_SECONDS_MAX = 60


def merges(server):
    """[(segment uuid, microseconds)] of every merge, as the agent measured it, oldest first."""
    store = sqlite3.connect(f"file:{server.state}/control.db?mode=ro", uri=True, timeout=10)
    try:
        return store.execute("SELECT segment, elapsed_us FROM intents WHERE kind = 'merge_shadow'"
                             " AND finished_ms > 0 ORDER BY number").fetchall()
    finally:
        store.close()


def wait_for_merge(server, uuid):
    deadline = time.monotonic() + MERGE_SECONDS_MAX
    while time.monotonic() < deadline:
        for segment, elapsed in merges(server):
            if segment == uuid:
                return elapsed
        time.sleep(0.05)
    raise RuntimeError(f"segment {uuid} was not merged within {MERGE_SECONDS_MAX} s")


def adopt_once(binary, directory, shadow_bytes):
    """Fills a shadow of `shadow_bytes` and goes on writing while control has it merged. What was seen."""
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    overhead = 16 * MIB + shadow_bytes // 128
    with servers.Foreshadow(binary, directory, PRIMARY) as server:
        backing = shadow_bytes + overhead
        server.add_pool("spare", os.path.join(directory, "spare"), backing + ROOM)
        server.create_volume("bench", 4 * (PRIMARY + shadow_bytes + ROOM), PRIMARY)
        server.call("shadow", "grant", "bench", "--pool", "spare", "--size", str(backing))
        # The first warm shadow takes the writes once the primary is full; the second when that is.
        shadow = next(s for s in server.show("bench")["segments"] if s["pool"] == "spare")
        load.fio(server, directory, rw="write", bs="1m", iodepth=8, size=PRIMARY)
        server.call("shadow", "grant", "bench", "--pool", "spare", "--size", str(ROOM))
        load.fio(server, directory, rw="write", bs="1m", iodepth=8, offset=PRIMARY,
                 size=backing + ROOM // 2)
        elapsed = wait_for_merge(server, shadow["uuid"])
        shown = server.show("bench")
    shutil.rmtree(directory, ignore_errors=True)
    merged = next(s for s in shown["segments"] if s["uuid"] == shadow["uuid"])
    return {"elapsed_us": elapsed, "data_bytes": merged["used"], "holds": shown["holds"],
            "state": merged["state"]}


def adopt(binary, directory, sizes, rounds, say):
    """{size: median of the elapsed microseconds, most holds seen, bytes in the shadow}"""
    out = {}
    samples = {size: [] for size in sizes}
    for number in range(rounds):
        for size in sizes if number % 2 == 0 else reversed(sizes):
            sample = adopt_once(binary, os.path.join(directory, "adopt"), size)
            say(f"  shadow with {sample['data_bytes'] / MIB:.0f} MiB: {sample['elapsed_us']} us,"
                f" {sample['holds']} holds, {sample['state']}")
            samples[size].append(sample)
    for size, taken in samples.items():
        out[str(size)] = {
            "elapsed_us": statistics.median(s["elapsed_us"] for s in taken),
            "elapsed_us_max": max(s["elapsed_us"] for s in taken),
            "data_bytes": taken[0]["data_bytes"],
            "holds": max(s["holds"] for s in taken),
            "merged": all(s["state"] == "merged" for s in taken),
        }
    return out
