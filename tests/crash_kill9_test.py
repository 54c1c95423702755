"""kill -9 of the server, again and again, under a writer that knows what may be there afterwards.

The instant is random; shadows are granted, activated and merged meanwhile, or squeezed, drained and folded.
FORESHADOW_KILL_CYCLES asks for more kills than the default, FORESHADOW_SEED for another order of events.
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


BALLAST = 128 * MIB  # beside what is judged after each kill; judged when all is done


class Moves:
    """One volume, most of it in a shadow that is squeezed, drained and folded, and killed meanwhile."""

    def __init__(self, server, name, chance):
        self.server, self.chance = server, chance
        self.volume = server.create(name, size="256MiB", primary="16MiB", pool="moves", checksums=True,
                                    redirect=chance.choice(("allocating", "all")))
        self.volume.grant("192MiB", pool="moves")
        self.ledger = stamps.Ledger(REGION // 4 // stamps.SECTOR)
        self.ballast = chance.randbytes(BALLAST)
        handle = support.connect(self.volume)
        for at in range(0, BALLAST, 4 * MIB):
            handle.pwrite(self.ballast[at:at + 4 * MIB], REGION + at)
        self.ledger.fill(handle)
        handle.shutdown()
        self.volume.grant("192MiB", pool="moves")  # room for a drain
        for segment in self.volume.show()["segments"]:
            if segment["state"] != "merged":
                server.cli("shadow", "merge", name, "--segment", segment["id"], ok=False)

    def shadow(self, segment=None):
        """That one as it is now, None if it is gone; or the one that holds most."""
        shadows = [s for s in self.volume.show()["segments"] if s["role"] == "shadow"]
        if segment is None:
            return max(shadows, key=lambda shown: shown["used"])
        return next((shown for shown in shadows if shown["id"] == segment), None)

    def ask(self, way, segment):
        words = [support.BINARY, "--state", str(self.server.state), "shadow", way, self.volume.name]
        return subprocess.Popen([*words, str(segment)], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, preexec_fn=support.die_with_parent)

    def kill_amid(self, way, seen, rest):
        """`rest` seconds after the server has said that it begins with that, behind what it had `seen` fit
        to say before."""
        says = {"squeeze": b"squeeze.requested", "drain": b"segment.draining", "fold": b"shadow.folding"}
        with open(self.server.log_path, "rb") as log:
            log.seek(seen)
            said, ends = b"", time.monotonic() + support.DEADLINE
            while way is not None and says[way] not in said and time.monotonic() < ends:
                said += log.read()
                time.sleep(0.001)
        time.sleep(rest)
        self.server.process.kill()

    def live_and_die(self, asked, way, rest):
        """Asks for those and writes until it is killed, soon after `way` has begun if that is asked for; how
        much was in flight."""
        begun = way if any(one[0] == way for one in asked) else None
        arguments = (begun, self.server.log_path.stat().st_size, rest)
        killer = threading.Thread(target=self.kill_amid, args=arguments, daemon=True)
        asking = [self.ask(*one) for one in asked]
        writer = stamps.Writer(self.volume, self.ledger, self.chance.getrandbits(32))
        killer.start()
        writer.run(until=lambda: False)
        killer.join()
        self.server.process.wait()
        in_flight = writer.in_flight()
        writer.close()
        for one in asking:
            one.wait(timeout=support.DEADLINE)
        self.server.start()
        return in_flight

    def judge(self):
        handle = support.connect(self.volume)
        self.ledger.verify_volume(handle)
        handle.shutdown()
        self.volume.check()

    def judge_all(self):
        self.judge()
        handle = support.connect(self.volume)
        for at in range(0, BALLAST, 4 * MIB):
            read = bytes(handle.pread(4 * MIB, REGION + at))
            assert read == self.ballast[at:at + 4 * MIB], f"what lies at {REGION + at} on has changed"
        handle.shutdown()


def is_leaving(shown):
    return shown is not None and shown["state"] in ("draining", "folding")


def kill9_moves(sandbox):
    """Killed while a shadow is squeezed, drained and folded, and again while each start goes on with that.

    When the kill comes is drawn about the time in which the last ones met a segment half way out, so that
    most do, however fast the machine is.
    """
    support.libnbd()
    print(f"FORESHADOW_SEED={SEED}", flush=True)
    chance = random.Random(SEED)
    server = sandbox.up()
    server.pool("moves", "1GiB")
    totals = {"kills": 0, "half way out": 0, "squeezed meanwhile": 0, "with squeezed clusters": 0,
              "in flight at a kill": 0, "writes acknowledged": 0}
    rest, squeezed = 0.03, 0
    wanted = ("half way out", "squeezed meanwhile", "with squeezed clusters")

    def done():  # a few kills more, where they met too little
        enough = all(totals[what] >= CYCLES // 10 for what in wanted)
        return totals["kills"] >= (CYCLES if enough else 4 * CYCLES)

    while not done():
        moves = Moves(server, f"moves-{totals['kills']}", chance)
        # Twice while it is only squeezed; then it is moved, with a squeeze that waits or has to give way.
        for way in ("squeeze", "squeeze", "drain", "fold"):
            victim = moves.shadow()
            held = victim["used"]

            def half_way_out(shown):
                return is_leaving(shown) and MIB < shown["used"] < held - MIB

            while victim is not None and held > MIB and not done():
                asked = [("squeeze", chance.choice((0, victim["id"])))] if way != "squeeze" else []
                if not is_leaving(victim):
                    asked.append((way, victim["id"]))
                chance.shuffle(asked)
                flying = moves.live_and_die(asked, way, chance.uniform(0, 2) * rest)
                totals["in flight at a kill"] += flying
                totals["kills"] += 1
                now = moves.shadow(victim["id"])
                met = half_way_out(now)
                totals["half way out"] += met
                while is_leaving(now) and chance.random() < 0.7:  # again, while it goes on with that
                    time.sleep(chance.uniform(0, rest))
                    server.kill()
                    server.start()
                    totals["kills"] += 1
                    now = moves.shadow(victim["id"])
                    totals["half way out"] += half_way_out(now)
                moves.judge()
                logical = moves.volume.show()["squeezed"]["logical"]
                totals["with squeezed clusters"] += logical > 0
                totals["squeezed meanwhile"] += logical > squeezed
                squeezed = logical
                if way == "squeeze":
                    break
                if not met and len(asked) > 1:
                    early = now is not None and not is_leaving(now)
                    rest = min(1, rest * 1.3) if early else max(0.01, rest / 1.3)
                victim = now
        moves.volume.wait_for(lambda shown: all(s["state"] == "merged" or s["state"] == "warm"
                                                for s in shown["segments"]))
        moves.judge_all()
        totals["writes acknowledged"] += moves.ledger.acknowledged
        if done():
            moves.volume.expect_well(merged=0, holds=None)
        server.cli("volume", "rm", moves.volume.name)
        squeezed = 0
        left = list(sandbox.path.glob("**/*.seg"))
        assert not left, f"the removed volume left {left}"
    print(json.dumps(totals))
    for what in wanted:
        assert totals[what] >= CYCLES // 10, f"of {totals['kills']} kills only {totals[what]} met: {what}"
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
