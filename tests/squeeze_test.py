"""Squeezing as people meet it: by policy and by hand, with real files, over restarts and kills."""
import hashlib
import os
import pathlib
import signal
import subprocess

import support
from support import MIB, connect, run

SOURCE = pathlib.Path("/usr")
SIZE = 24 * MIB


def real_bytes(size):
    """Of this machine's own programs and texts, each file from a multiple of 4 KiB on."""
    out = bytearray()
    for path in sorted(SOURCE.rglob("*")):
        if len(out) >= size:
            break
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MIB:
            continue
        out += path.read_bytes()
        out += bytes(-len(out) % 4096)
    assert len(out) >= size, f"{SOURCE} has too few files"
    return bytes(out[:size])


def write(volume, data, offset=0):
    handle = connect(volume)
    for at in range(0, len(data), MIB):
        handle.pwrite(data[at:at + MIB], offset + at)
    handle.flush()
    handle.shutdown()


def digest(volume, size, offset=0):
    handle = connect(volume)
    out = hashlib.sha256()
    for at in range(0, size, MIB):
        out.update(handle.pread(MIB, offset + at))
    handle.shutdown()
    return out.hexdigest()


def by_hand(sandbox):
    """`shadow squeeze` on the primary: less in use, the same to read, also after a restart."""
    data = real_bytes(SIZE)
    wanted = hashlib.sha256(data).hexdigest()
    server = sandbox.up()
    volume = server.create("db", primary="64MiB", pool="default")
    write(volume, data)
    before = volume.refresh()
    refused = server.cli("shadow", "squeeze", "db", "7", ok=False)
    assert refused.returncode != 0 and "no segment with id 7" in refused.stderr, refused
    shown = server.cli("shadow", "squeeze", "db", "0", "--codec", "zstd")
    squeezed = shown["squeezed"]
    assert squeezed["logical"] > SIZE // 2 and squeezed["physical"] < 0.6 * squeezed["logical"], squeezed
    assert 0 < squeezed["ratio_p10"] <= squeezed["ratio_mean"] <= squeezed["ratio_p90"] <= 1, squeezed
    assert squeezed["ratio_stddev"] > 0, squeezed
    after = volume.refresh()
    assert after["used"] < 0.75 * before["used"], (before["used"], after["used"])
    assert after["logical"] == before["used"], (before["used"], after["logical"])
    assert after["latest"]["squeezed"]["physical"] == squeezed["physical"], after["latest"]
    assert digest(volume, SIZE) == wanted
    volume.check()
    server.stop()
    server.start()
    assert digest(volume, SIZE) == wanted
    write(volume, data[:MIB], offset=MIB + 4096)  # overlays
    handle = connect(volume)
    assert handle.pread(MIB, MIB + 4096) == data[:MIB]
    assert handle.pread(4096, MIB) == data[MIB:MIB + 4096]
    handle.shutdown()
    volume.check()


def by_policy(sandbox):
    """`volume create --squeeze zstd`: a shadow is squeezed when it is merged, and an event says so."""
    data = real_bytes(SIZE)
    server = sandbox.up()
    volume = server.small_volume(squeeze="zstd", shadows=2)
    assert volume.show()["squeeze"] == "zstd"
    with support.Events(server) as events:
        write(volume, data)
        for _ in range(8):
            if any(s["state"] == "merged" and s["role"] == "shadow" for s in volume.show()["segments"]):
                break
            volume.merge(ok=False)
        events.wait_for("shadow.squeezed", volume="db")
    shown = volume.refresh()
    assert shown["squeezed"]["logical"] > 0, shown["squeezed"]
    assert digest(volume, SIZE) == hashlib.sha256(data).hexdigest()
    volume.check()
    text = run(support.BINARY, "--state", server.state, "volume", "show", "db")
    assert "squeezed" in text and "on average" in text, text


def killed(sandbox):
    """kill -9 in the middle of passes: nothing is lost, and the pass goes on until it is done."""
    data = real_bytes(SIZE)
    wanted = hashlib.sha256(data).hexdigest()
    server = sandbox.up()
    volume = server.create("db", primary="64MiB", pool="default")
    write(volume, data)
    for attempt in range(4):
        words = [support.BINARY, "--state", str(server.state), "shadow", "squeeze", "db", "0", "--codec",
                 "lz4" if attempt % 2 else "zstd"]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL) as asked:
            try:
                asked.wait(timeout=0.1 * (attempt + 1))
            except subprocess.TimeoutExpired:
                pass
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            asked.wait(timeout=support.DEADLINE)
        server.start()
        assert digest(volume, SIZE) == wanted, f"after kill {attempt}"
        volume.check()
    server.cli("shadow", "squeeze", "db", "0")
    assert volume.refresh()["squeezed"]["physical"] < 0.5 * SIZE, volume.show()["squeezed"]
    assert digest(volume, SIZE) == wanted


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")
    support.main({"by_hand": by_hand, "by_policy": by_policy, "killed": killed})
