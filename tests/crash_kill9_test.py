"""kill -9 of the server, again and again, under a writer that knows what may be there afterwards.

The instant is random; shadows are granted, activated and merged meanwhile. FORESHADOW_KILL_CYCLES asks for
more cycles than the default, FORESHADOW_SEED for another order of events.
"""
import json
import os
import random
import subprocess
import threading
import time

import stamps
import support
from support import MIB, Churn, need, run

CYCLES = int(os.environ.get("FORESHADOW_KILL_CYCLES", "12"))
SEED = int(os.environ.get("FORESHADOW_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
REGION = 64 * MIB
CYCLES_PER_VOLUME = 4  # then the region is all allocated, and the segments are many


def one_cycle(server, volume, ledger, chance):
    """Lets the writer run until a random instant, kills the server, starts it and judges every sector."""
    writer = stamps.Writer(volume, ledger, chance.getrandbits(32))
    ends = time.monotonic() + chance.uniform(0.02, 0.9)
    killer = threading.Timer(ends - time.monotonic(), server.process.kill)
    with Churn(volume, size="8MiB", rounds_min=0, tolerant=True):
        killer.start()
        writer.run(until=lambda: False)
        killer.join()
        server.process.wait()
    in_flight = writer.in_flight()
    writer.close()
    server.start()
    handle = support.connect(volume)
    ledger.verify_volume(handle)
    handle.shutdown()
    volume.check()
    return in_flight


def kill9(sandbox):
    support.libnbd()
    print(f"FORESHADOW_SEED={SEED}", flush=True)
    chance = random.Random(SEED)
    server = sandbox.up()
    totals = {"cycles": 0, "writes acknowledged": 0, "in flight at the kill": 0, "merged": 0}
    volume = None
    for cycle in range(CYCLES):
        if cycle % CYCLES_PER_VOLUME == 0:
            redirect = chance.choice(("allocating", "all"))
            volume = server.small_volume(f"db-{cycle}", shadows=2, redirect=redirect)
            ledger = stamps.Ledger(REGION // stamps.SECTOR)
        totals["in flight at the kill"] += one_cycle(server, volume, ledger, chance)
        totals["cycles"] += 1
        if (cycle + 1) % CYCLES_PER_VOLUME == 0 or cycle + 1 == CYCLES:
            volume.merge(ok=False)
            shown = volume.expect_well(merged=1)
            totals["merged"] += support.merged_shadows(shown)
            totals["writes acknowledged"] += ledger.acknowledged
            server.cli("volume", "rm", volume.name)
            left = list(sandbox.path.glob("**/*.seg"))
            assert not left, f"the removed volume left {left}"
    print(json.dumps(totals))
    server.stop()


class Mover(threading.Thread):
    """Has what the writer has filled folded or drained, and kills the server while that is under way."""

    def __init__(self, server, volume, way, chance):
        super().__init__(daemon=True)
        self.server, self.volume, self.way = server, volume, way
        self.rest, self.target, self.failure = chance.uniform(0, 0.02), None, None

    def run(self):
        try:
            self.move()
        except Exception as failure:  # whatever it is, the writer waits for the kill
            self.failure = failure
        self.server.process.kill()

    def move(self):
        self.volume.wait_for(lambda shown: shown["used"] > 40 * MIB)
        self.volume.merge()
        self.target = min(s["id"] for s in self.volume.show()["segments"] if s["id"] != 0)
        if self.way == "drain":  # into another that has room
            granted = self.volume.grant("96MiB")["segments"]
            for segment in granted:
                if segment["state"] == "warm":
                    self.server.cli("shadow", "merge", self.volume.name, "--segment", segment["id"])
        words = [support.BINARY, "--state", str(self.server.state), "shadow", self.way, self.volume.name]
        with support.Events(self.server) as events:
            events.wait_for("volume.created", self.volume.name)  # it follows
            asking = subprocess.Popen([*words, str(self.target)], stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL, preexec_fn=support.die_with_parent)
            events.wait_for("shadow.folding" if self.way == "fold" else "segment.draining", self.volume.name)
            time.sleep(self.rest)  # the random instant
            self.server.process.kill()
            asking.wait(timeout=support.DEADLINE)


def judge(server, volume, ledger):
    server.start()
    handle = support.connect(volume)
    ledger.verify_volume(handle)
    handle.shutdown()
    volume.check()


def kill9_moves(sandbox):
    """Killed while a shadow is folded or drained, and again while the next start goes on with that."""
    support.libnbd()
    print(f"FORESHADOW_SEED={SEED}", flush=True)
    chance = random.Random(SEED)
    server = sandbox.up()
    totals = {"kills": 0, "writes acknowledged": 0, "in flight at a kill": 0, "gone on with after a kill": 0}
    for cycle in range(max(2, CYCLES // 3)):  # of two kills each
        redirect = chance.choice(("allocating", "all"))
        volume = server.small_volume(f"db-{cycle}", shadows=0, size="128MiB", pool_size="512MiB",
                                     redirect=redirect)
        ledger = stamps.Ledger(REGION // stamps.SECTOR)
        mover = Mover(server, volume, "fold" if cycle % 2 == 0 else "drain", chance)
        for killer in (mover, threading.Timer(chance.uniform(0, 0.1), lambda: server.process.kill())):
            writer = stamps.Writer(volume, ledger, chance.getrandbits(32))
            killer.start()
            writer.run(until=lambda: False)
            killer.join()
            server.process.wait()
            totals["in flight at a kill"] += writer.in_flight()
            writer.close()
            assert mover.failure is None, mover.failure
            judge(server, volume, ledger)
            totals["kills"] += 1
        # Asked again it waits for what goes on, begins what had not begun, or finds it done.
        server.cli("shadow", mover.way, volume.name, mover.target, ok=False)
        volume.wait_for(lambda shown: all(s["id"] != mover.target for s in shown["segments"]))
        volume.expect_well(merged=0, holds=None)
        judge_again = support.connect(volume)
        ledger.verify_volume(judge_again)
        judge_again.shutdown()
        totals["writes acknowledged"] += ledger.acknowledged
        server.cli("volume", "rm", volume.name)
        left = list(sandbox.path.glob("**/*.seg"))
        assert not left, f"the removed volume left {left}"
    # What the agent says when it comes up and finds a segment half way out.
    totals["gone on with after a kill"] = server.log().count("going on with the release of segment")
    print(json.dumps(totals))
    server.stop()


def kill9_fio(sandbox):
    """The same with fio as the writer; its own verification after the last restart."""
    need("fio")
    chance = random.Random(SEED)
    print(f"FORESHADOW_SEED={SEED}", flush=True)
    server = sandbox.up()
    volume = server.small_volume()
    words = ["fio", "--name=kill", "--ioengine=nbd", f"--uri={volume.uri()}", "--rw=randwrite", "--size=96M",
             "--bsrange=512-128k", "--blockalign=512", "--iodepth=16", "--verify=crc32c", "--randrepeat=1"]
    for _ in range(3):
        writing = subprocess.Popen([*words, "--do_verify=0", "--time_based", "--runtime=60"], text=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   preexec_fn=support.die_with_parent)
        with Churn(volume, size="8MiB", rounds_max=10, rounds_min=0, tolerant=True):
            time.sleep(chance.uniform(0.3, 1.2))
            server.kill()
            writing.wait(timeout=support.DEADLINE)
        server.start()
        volume.check()
    with Churn(volume, rounds_max=10):  # a volume has 64 segments at most
        run(*words, "--fsync=64", "--do_verify=1", "--verify_fatal=1")
    # What fio wrote and verified, and flushed with its last fsync, is there after one more kill.
    support.connect(volume).flush()
    server.kill()
    server.start()
    run(*words, "--verify_only", "--verify_fatal=1")
    volume.expect_well(holds=None)


if __name__ == "__main__":
    support.main({"kill9": kill9, "kill9_moves": kill9_moves, "kill9_fio": kill9_fio})
