"""Control and agent as two processes: what becomes of a volume when control is away (promise G3)."""
import errno
import os
import random
import subprocess
import time

import stamps
import support
from support import BINARY, MIB, Server, run

ITERATIONS = int(os.environ.get("FORESHADOW_CONTROL_KILLS", "12"))
SEED = int(os.environ.get("FORESHADOW_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
REGION = 160 * MIB


def pair(sandbox):
    """Control, and an agent that has a pool `default`."""
    control = Server(sandbox, "control", "c")
    address = f"unix:{control.state / 'control.sock'}"
    agent = Server(sandbox, "agent", "a", "--control", address, control=control)
    wait_for_agent(control)
    agent.pool("default")
    return control, agent


def wait_for_agent(control):
    with support.Events(control) as events:
        ends = time.monotonic() + support.DEADLINE
        while not control.cli("status")["agents"]:
            assert time.monotonic() < ends, "the agent did not connect"
            events.wait()


def merge_all(volume):
    """By hand until every shadow is warm or merged: the cycle can be completed."""
    for _ in range(64):
        shown = volume.show()
        if all(s["state"] in ("warm", "merged") for s in shown["segments"]):
            return
        volume.server.cli("shadow", "merge", volume.name, ok=False)
    raise AssertionError(f"the shadows do not become merged: {shown['segments']}")


def kill_during(sandbox, command, arguments, prepare=lambda volume: None, merged=3):
    """Kills control at a random instant of what `command` starts, many times, under a busy writer."""
    print(f"FORESHADOW_SEED={SEED}", flush=True)
    chance = random.Random(SEED)
    control, agent = pair(sandbox)
    # Where shadows are released, policy backs all of the volume and no more: the primary has room to grow,
    # and the pool as well, even if every round leaves what prepare() has granted.
    small = {"size": "256MiB", "pool_size": f"{512 + 32 * ITERATIONS}MiB"} if merged == 0 else {}
    volume = agent.small_volume(shadows=3, **small)
    ledger = stamps.Ledger(REGION // stamps.SECTOR)
    known = set()
    with stamps.Load(volume, ledger, SEED) as load:
        for _ in range(ITERATIONS):
            prepare(volume)
            known |= {s["uuid"] for s in volume.show()["segments"] if s["state"] != "granted"}
            words = [BINARY, "--state", str(control.state), "shadow", command, volume.name,
                     *arguments(volume)]
            asking = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                      preexec_fn=support.die_with_parent)
            time.sleep(chance.uniform(0.01, 0.08 if merged > 0 else 0.3))  # the random instant
            control.kill()
            asking.wait(timeout=support.DEADLINE)
            control.start()
            wait_for_agent(control)
            assert load.failure is None, load.failure
    volume.check()
    wait_until_settled(control, volume)
    merge_all(volume)
    shown = volume.expect_well(merged=merged, holds=None)
    gone = known - {s["uuid"] for s in shown["segments"]}
    if merged > 0:
        assert not gone, f"shadows that were attached are gone: {gone}"
    else:
        assert len(gone) >= 3, f"of {len(known)} shadows only {len(gone)} were released"
    assert shown["failed_writes"] == 0
    handle = support.connect(volume)
    ledger.verify_volume(handle)
    handle.shutdown()
    agent.stop()
    control.stop()


def wait_until_settled(control, volume):
    volume.wait_for(lambda shown: control.cli("status")["pending_intents"] == 0 and
                    all(s["state"] not in ("granted", "merging", "sealed", "folding", "draining")
                        for s in shown["segments"]))


def control_redirect(sandbox):
    kill_during(sandbox, "grant", lambda volume: ["--size", "8MiB", "--pool", "default"])


def control_merge(sandbox):
    kill_during(sandbox, "merge", lambda volume: [], prepare=lambda volume: volume.grant("8MiB", ok=False))


def make_room(volume):
    """One more merged shadow than before, with room for what another holds."""
    volume.grant("32MiB", ok=False)
    volume.merge(ok=False)


def oldest_shadow(volume):
    """The oldest that is part of the volume, or one that is not there."""
    ids = [s["id"] for s in volume.show()["segments"] if s["id"] != 0 and s["state"] == "merged"]
    return [str(min(ids, default=9999))]


def control_fold(sandbox):
    """A fold goes on without control, which learns of its end, and nothing stays behind in the pools."""
    kill_during(sandbox, "fold", oldest_shadow, prepare=make_room, merged=0)


def control_drain(sandbox):
    kill_during(sandbox, "drain", oldest_shadow, prepare=make_room, merged=0)


def control_away(sandbox):
    """Without control the warm shadows are used; a restart of the agent without control serves as well."""
    nbd = support.libnbd()
    control, agent = pair(sandbox)
    volume = agent.small_volume(shadows=2)
    before = volume.show()["first_redirect_to_warm"]
    control.kill()
    image, back = sandbox.random_file("image", 96 * MIB), sandbox.path / "back"
    handle = support.connect(volume)
    write_all(handle, image.read_bytes())
    agent.stop()
    agent.start()
    handle = support.connect(volume)
    back.write_bytes(bytes(handle.pread(32 * MIB, 0)) + bytes(handle.pread(32 * MIB, 32 * MIB)) +
                     bytes(handle.pread(32 * MIB, 64 * MIB)))
    run("cmp", image, back)
    handle.pwrite(b"after" * 1000, 100 * MIB, nbd.CMD_FLAG_FUA)
    control.start()
    wait_for_agent(control)
    shown = volume.expect_well(merged=1)
    used = [s for s in shown["segments"] if s["role"] == "shadow" and s["used"] > 0]
    assert len(used) >= 2, f"the warm shadows were not used: {shown['segments']}, {before}"


def write_all(handle, data, at=0):
    for offset in range(0, len(data), MIB):
        handle.pwrite(data[offset:offset + MIB], at + offset)
    handle.flush()


def walled(agent, name, hold_timeout):
    """A volume whose pool is all handed out: primary, one shadow, and a volume that can be removed."""
    agent.pool(name, "144MiB")
    agent.create(f"{name}-ballast", size="32MiB", primary="64MiB", pool=name)
    volume = agent.create(name, pool=name, hold_timeout=hold_timeout)
    shown = volume.wait_for(lambda shown: any(s["state"] == "warm" for s in shown["segments"]))
    return volume, shown["capacity"]


def wall_without_control(sandbox):
    """With control dead for good, a first touch at the wall waits for hold_timeout, then fails with ENOSPC.

    Reads and overwrites go on meanwhile; trimmed space is taken again.
    """
    nbd = support.libnbd()
    control, agent = pair(sandbox)
    volume, capacity = walled(agent, "short", "1s")
    control.kill()
    handle = support.connect(volume)
    write_all(handle, os.urandom(capacity))
    started = time.monotonic()
    held = handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"h" * MIB)), 512 * MIB)
    other = support.connect(volume)
    other.pwrite(b"overwrite" * 1000, 4096)
    assert bytes(other.pread(9000, 4096)) == b"overwrite" * 1000
    try:
        while not handle.aio_command_completed(held):
            handle.poll(-1)
        raise AssertionError("a write past the wall was acknowledged")
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, f"errno {error.errnum}, expected ENOSPC"
    waited = time.monotonic() - started
    assert waited > 0.9, f"it failed after {waited} s, before the hold timeout"
    other.trim(MIB, 8 * MIB)
    other.flush()
    other.pwrite(b"n" * MIB, 512 * MIB)
    assert bytes(other.pread(MIB, 512 * MIB)) == b"n" * MIB
    control.start()
    wait_for_agent(control)
    volume.check()
    shown = volume.refresh()
    assert shown["holds"] >= 1 and shown["failed_writes"] == 1 and shown["held_now"] == 0, shown


def wall_until_control(sandbox):
    """A write held at the wall goes on, unfailed, once control is back and finds space to grant."""
    nbd = support.libnbd()
    control, agent = pair(sandbox)
    volume, capacity = walled(agent, "patient", "10min")
    control.kill()
    handle = support.connect(volume)
    write_all(handle, os.urandom(capacity))
    data = os.urandom(MIB)
    held = handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), 512 * MIB)
    handle.poll(200)
    assert not handle.aio_command_completed(held), "a write past the wall was answered"
    control.start()
    wait_for_agent(control)
    control.cli("volume", "rm", "patient-ballast")
    while not handle.aio_command_completed(held):
        assert handle.poll(support.DEADLINE * 1000) == 1, "the held write was not answered"
    handle.flush()
    assert bytes(handle.pread(MIB, 512 * MIB)) == data
    volume.check()
    shown = volume.refresh()
    assert shown["held_now"] == 0, shown
    assert shown["holds"] == 1 and shown["failed_writes"] == 0, shown


def facts(server):
    """What must be known again of every volume, by name."""
    volumes = {}
    for volume in server.cli("volume", "list"):
        segments = [[s[key] for key in ("id", "uuid", "role", "state", "pool", "capacity")]
                    for s in volume["segments"]]
        volumes[volume["name"]] = [volume[key] for key in ("id", "size", "capacity", "used", "redirect")]
        volumes[volume["name"]].append(segments)
    return volumes


def database_lost(sandbox):
    """Control's database is deleted: volumes, segments and pools are back from what the agent reports."""
    nbd = support.libnbd()
    control, agent = pair(sandbox)
    volume = agent.small_volume(shadows=3)
    agent.create("other", size="64MiB", primary="64MiB", redirect="all")
    data = os.urandom(90 * MIB)
    handle = support.connect(volume)
    write_all(handle, data)
    wait_until_settled(control, volume)
    volume.refresh()
    before, pools = facts(agent), agent.cli("pool", "list")
    control.kill()
    for file in control.state.glob("control.db*"):
        file.unlink()
    control.start()
    wait_for_agent(control)
    with support.Events(control) as events:
        ends = time.monotonic() + support.DEADLINE
        while len(facts(agent)) < len(before) and time.monotonic() < ends:
            events.wait()
    assert facts(agent) == before, f"before {before}, after {facts(agent)}"
    names = [(p["name"], p["directory"], p["configured_capacity"]) for p in agent.cli("pool", "list")]
    assert names == [(p["name"], p["directory"], p["configured_capacity"]) for p in pools], names
    # The connection from before is served on, and the volume can be acted on.
    assert bytes(handle.pread(MIB, 89 * MIB)) == data[89 * MIB:]
    volume.grant()
    write_all(handle, data[:32 * MIB], at=256 * MIB)
    volume.expect_well(merged=1)
    assert bytes(handle.pread(32 * MIB, 256 * MIB)) == data[:32 * MIB]


if __name__ == "__main__":
    support.main({"control_redirect": control_redirect, "control_merge": control_merge,
                  "control_fold": control_fold, "control_drain": control_drain,
                  "control_away": control_away, "wall_without_control": wall_without_control,
                  "wall_until_control": wall_until_control, "database_lost": database_lost})
