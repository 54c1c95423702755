"""A volume goes to another pool while it is written to; what a kill -9 in the middle leaves is one volume.

FORESHADOW_KILL_CYCLES asks for more kills than the default, FORESHADOW_SEED for other instants.
"""
import json
import os
import random
import shutil
import subprocess
import threading
import time

import integrity_test
import stamps
import support
from support import MIB

CYCLES = int(os.environ.get("FORESHADOW_KILL_CYCLES", "8"))
SEED = int(os.environ.get("FORESHADOW_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
REGION = 48 * MIB


def pools(server, *names):
    for name in names:
        server.pool(name, "512MiB")


def segments_in(server, pool):
    return sorted(file.name for file in (server.sandbox.path / f"pool-{pool}").glob("*.seg"))


def primary_of(shown):
    found = [segment for segment in shown["segments"] if segment["role"] == "primary"]
    assert len(found) == 1 and found[0]["id"] == 0, shown["segments"]
    return found[0]


def moved_to(pool):
    """The primary is there, and the one before is gone."""
    return lambda shown: (primary_of(shown)["pool"] == pool and shown["job"] is None
                          and support.settled(shown)
                          and all(s["state"] != "draining" for s in shown["segments"]))


def judge(volume, ledger):
    handle = support.connect(volume)
    ledger.verify_volume(handle)
    handle.shutdown()
    volume.check()


def live(sandbox):
    """There and back under a writer that checks all it reads."""
    server = sandbox.up()
    pools(server, "here", "there")
    volume = server.create("db", size="256MiB", primary="96MiB", pool="here", checksums=True)
    ledger = stamps.Ledger(REGION // stamps.SECTOR)
    before = primary_of(volume.show())
    with stamps.Load(volume, ledger, seed=11) as load:
        volume.wait_for(lambda shown: shown["used"] > 20 * MIB)
        moved = server.cli("volume", "move", "db", "--pool", "there", "--wait")
        assert moved["pool"] == "there" and primary_of(moved)["uuid"] != before["uuid"], moved
        assert all(segment["uuid"] != before["uuid"] for segment in moved["segments"]), moved["segments"]
        assert not any(before["uuid"] in name for name in segments_in(server, "here"))
        volume.check()
        asked = server.cli("volume", "move", "db", "--pool", "here")  # recorded, not done
        assert asked["name"] == "db", asked
        volume.wait_for(moved_to("here"))
    assert load.writer.ledger.acknowledged > 0
    shown = volume.expect_well(merged=0, holds=None)
    assert shown["holds"] == 0 and shown["pool"] == "here", shown
    judge(volume, ledger)
    kinds = [event["kind"] for event in server.cli("events", "--volume", "db")]
    for kind in ("volume.moving", "volume.moved"):
        assert kinds.count(kind) == 2, f"{kind}: {kinds}"
    server.stop()
    volume.check()  # without a server
    server.start()
    judge(volume, ledger)
    server.stop()


def refusals(sandbox):
    """What cannot be is said before anything is made."""
    server = sandbox.up()
    pools(server, "here", "there")
    server.pool("small", "32MiB")
    volume = server.create("db", size="256MiB", primary="96MiB", pool="here")
    image = sandbox.random_file("image.raw", 64 * MIB)
    server.cli("volume", "adopt-device", "old", "--device", image, "--pool", "here", "--primary",
               "64MiB")
    before = primary_of(volume.show())
    for words, complaint in ((("db", "--pool", "nowhere"), "nowhere"),
                             (("db", "--pool", "here"), "in pool here already"),
                             (("db", "--pool", "small"), "pool small can hand out"),
                             (("none", "--pool", "there"), "does not exist"),
                             (("old", "--pool", "there"), "over an image")):
        refused = server.cli("volume", "move", *words, "--wait", ok=False)
        assert refused.returncode != 0 and complaint in refused.stderr, (words, refused.stderr)
    assert primary_of(volume.show()) == before
    assert segments_in(server, "there") == [] and segments_in(server, "small") == []
    volume.check()
    server.stop()


class Killer(threading.Thread):
    """Asks for a move, the `number`-th of the volume, and kills the server at a random instant of it."""

    def __init__(self, server, volume, pool, number, rest):
        super().__init__(daemon=True)
        self.server, self.volume, self.pool, self.rest = server, volume, pool, rest
        self.number = number
        self.failure = None

    def run(self):
        try:
            self.volume.wait_for(lambda shown: shown["used"] > 8 * MIB)
            words = [support.BINARY, "--state", str(self.server.state), "volume", "move", self.volume.name]
            with support.Events(self.server) as events:
                events.wait_for("volume.created", self.volume.name)  # it follows
                asking = subprocess.Popen([*words, "--pool", self.pool, "--wait"], stdout=subprocess.DEVNULL,
                                          stderr=subprocess.DEVNULL, preexec_fn=support.die_with_parent)
                for _ in range(self.number):
                    events.wait_for("volume.moving", self.volume.name)
                time.sleep(self.rest)
                self.server.process.kill()
                asking.wait(timeout=support.DEADLINE)
        except Exception as failure:  # whatever it is, the writer waits for the kill
            self.failure = failure
        self.server.process.kill()


def write_until_killed(killer, ledger, seed):
    writer = stamps.Writer(killer.volume, ledger, seed)
    killer.start()
    writer.run(until=lambda: False)
    killer.join()
    killer.server.process.wait()
    writer.close()
    assert killer.failure is None, killer.failure


def killed(sandbox):
    """kill -9 in the middle of moves, there and back: asked for once, each comes to its end."""
    support.libnbd()
    print(f"FORESHADOW_SEED={SEED}", flush=True)
    chance = random.Random(SEED)
    server = sandbox.up()
    pools(server, "a", "b")
    volume = server.create("db", size="256MiB", primary="96MiB", pool="a", checksums=True)
    ledger = stamps.Ledger(REGION // stamps.SECTOR)
    totals = {"kills": 0, "with both primaries": 0, "with one primary": 0, "writes acknowledged": 0}
    for cycle in range(CYCLES):
        source, target = ("a", "b") if cycle % 2 == 0 else ("b", "a")
        primary = primary_of(volume.show())["uuid"]
        rest = chance.choice((0.02, 0.08, 0.3)) * chance.random()
        write_until_killed(Killer(server, volume, target, cycle + 1, rest), ledger, chance.getrandbits(32))
        old, new = (any(old_or_new in name for name in segments_in(server, pool))
                    for pool, old_or_new in ((source, primary), (target, "")))
        totals["with both primaries" if old and new else "with one primary"] += 1
        # It goes on by itself. Every third time it is killed again while it does.
        for again in range(2 if cycle % 3 == 2 else 1):
            if again > 0:
                time.sleep(chance.uniform(0, 0.1))
                server.kill()
            server.start()
            judge(volume, ledger)
            totals["kills"] += 1
        volume.wait_for(moved_to(target))
        judge(volume, ledger)
    shown = volume.expect_well(merged=0, holds=None)
    totals["writes acknowledged"] = ledger.acknowledged
    kinds = [event["kind"] for event in server.cli("events", "--volume", "db")]
    assert kinds.count("volume.moved") == CYCLES, kinds
    assert len(shown["segments"]) == len(volume.backings()), shown["segments"]
    print(json.dumps(totals))
    server.cli("volume", "rm", "db")
    left = list(sandbox.path.glob("**/*.seg"))
    assert not left, f"the removed volume left {left}"
    server.stop()


def rescued(sandbox):
    """The state directory is lost in the middle of a move, or after one: the segments alone make a volume."""
    support.libnbd()
    print(f"FORESHADOW_SEED={SEED}", flush=True)
    chance = random.Random(SEED)
    met = {"one": 0, "both": 0}
    for cycle in range(4):
        server = sandbox.up(f"s{cycle}")
        directories = [sandbox.path / f"{cycle}-{side}" for side in ("from", "to")]
        for side, directory in zip(("from", "to"), directories):
            directory.mkdir()
            server.cli("pool", "add", side, "--dir", directory, "--capacity", "512MiB")
        volume = server.create("db", size="256MiB", primary="96MiB", pool="from", checksums=True)
        ledger = stamps.Ledger(REGION // stamps.SECTOR)
        old = f"*.{primary_of(volume.show())['uuid']}.seg"
        rest = 2 if cycle == 0 else chance.choice((0.02, 0.08, 0.3)) * chance.random()
        write_until_killed(Killer(server, volume, "to", 1, rest), ledger, chance.getrandbits(32))
        met["both" if any(directories[0].glob(old)) else "one"] += 1
        shutil.rmtree(server.state)
        if cycle == 0:  # the head that it moved to has lost its superblocks as well
            head = next(file for file in directories[1].glob("*.seg"))
            integrity_test.spoil(head, *integrity_test.SUPERBLOCKS, length=8192)
        words = ["rescue", "--state", server.state, "--apply"]
        for directory in directories:
            words += ["--pool-dir", directory]
        report = json.loads(support.run(support.BINARY, "-o", "json", *words))
        found = report["volumes"]
        assert len(found) == 1 and found[0]["name"] == "db" and found[0]["whole"], report
        server.start()
        judge(volume, ledger)
        # What a move left half done goes on, or is asked for again; either way it comes to its end.
        pool_to = next(pool["name"] for pool in server.cli("pool", "list")
                       if pool["directory"] == str(directories[1]))
        if primary_of(volume.show())["pool"] != pool_to:
            server.cli("volume", "move", "db", "--pool", pool_to, "--wait")
        volume.wait_for(moved_to(pool_to))
        judge(volume, ledger)
        assert not any(directories[0].glob(old)), sorted(directories[0].iterdir())
        server.stop()
    print(json.dumps(met))


if __name__ == "__main__":
    support.main({"live": live, "refusals": refusals, "killed": killed, "rescued": rescued})
