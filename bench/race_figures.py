"""A writer at full speed against growth: from a small primary to many times its size, beside a volume that
has all of its space from the start; the same with control far away, and with control dead after the first
warm shadow.

Control and agent are processes of their own here. "Far away" is a relay between them that keeps every byte
back for DELAY_SECONDS on its way to the agent: an intent arrives so much later, as one that a cloud's API
takes to carry out.
"""
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time

import servers

MIB, GIB = 1 << 20, 1 << 30
PRIMARY = 256 * MIB
DELAY_SECONDS = 1.15
HOLD_TIMEOUT = 5  # seconds; of the volume whose control is dead, so that the end of it is seen
START_SECONDS = 30
CALM_SECONDS = 3


class Relay(threading.Thread):
    """Passes a unix socket's bytes on, those that come back from `there` late by `delay` seconds."""

    def __init__(self, here, there, delay):
        super().__init__(daemon=True)
        self.there, self.delay, self.over = there, delay, False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(here)
        self.listener.listen()

    def run(self):
        while not self.over:
            if not select.select([self.listener], [], [], 0.2)[0]:
                continue
            near = self.listener.accept()[0]
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.there)
            threading.Thread(target=self.pump, args=(near, far, 0.0), daemon=True).start()
            threading.Thread(target=self.pump, args=(far, near, self.delay), daemon=True).start()

    def pump(self, source, sink, delay):
        late = []
        ended = False
        try:
            while not self.over and (late or not ended):
                wait = max(0.0, late[0][0] - time.monotonic()) if late else 0.5
                if not ended and select.select([source], [], [], min(wait, 0.5))[0]:
                    data = source.recv(1 << 16)
                    ended = not data
                    if data:
                        late.append((time.monotonic() + delay, data))
                elif ended:
                    time.sleep(wait)
                while late and late[0][0] <= time.monotonic():
                    sink.sendall(late.pop(0)[1])
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Halves:
    """Control and agent, the agent on the server's core; a pool `bench`."""

    def __init__(self, binary, directory, pool_bytes, delay=0.0):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(os.path.join(directory, "pool"))
        self.binary, self.directory = binary, directory
        self.control_state = os.path.join(directory, "c")
        self.agent_state = os.path.join(directory, "a")
        self.log = open(os.path.join(directory, "log"), "ab")  # pylint: disable=consider-using-with
        self.processes, self.relay = [], None
        self.control = self.start([], "--state", self.control_state, "control", "--shadow-max", "4GiB")
        at = os.path.join(self.control_state, "control.sock")
        self.wait(lambda: os.path.exists(at), "control")
        if delay > 0:
            here = os.path.join(directory, "relay.sock")
            self.relay = Relay(here, at, delay)
            self.relay.start()
            at = here
        self.agent = self.start(servers.pinned(servers.SERVER_CORE), "--state", self.agent_state, "agent",
                                "--control", f"unix:{at}")
        self.wait(lambda: self.ask("status", check=False).returncode == 0 and
                  json.loads(self.ask("status").stdout)["agents"], "the agent")
        self.ask("pool", "add", "bench", "--dir", os.path.join(directory, "pool"), "--capacity",
                 str(pool_bytes))

    def start(self, before, *words):
        process = subprocess.Popen(before + [self.binary, *words], stdin=subprocess.DEVNULL, stdout=self.log,
                                   stderr=self.log, start_new_session=True, preexec_fn=servers.go_first)
        self.processes.append(process)
        return process

    def wait(self, ready, what):
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come up; see {self.directory}/log")
            time.sleep(0.05)

    def ask(self, *words, check=True):
        done = subprocess.run([self.binary, "--state", self.control_state, "-o", "json", *words],
                              capture_output=True, text=True, timeout=300, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"foreshadow {' '.join(words)}: {done.stderr.strip()}")
        return done

    def settled(self, name):
        """The volume, when nothing has been on its way to it for CALM_SECONDS."""
        calm_since = time.monotonic()
        while time.monotonic() < calm_since + CALM_SECONDS:
            time.sleep(0.1)
            shown = self.show(name)
            if any(segment["state"] == "granted" for segment in shown["segments"]):
                calm_since = time.monotonic()
        return shown

    def show(self, name):
        return json.loads(self.ask("volume", "show", name).stdout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.relay is not None:
            self.relay.over = True
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def write_all(uri, directory, size, allow_failure=False):
    """Writes [0, size) once, as fast as it goes. What fio says of it."""
    report = os.path.join(directory, "fio.json")
    words = ["fio", "--name=race", "--ioengine=nbd", f"--uri={uri}", "--thread", "--rw=write", "--bs=256k",
             "--iodepth=8", f"--size={size}", "--percentile_list=50:99:99.9:100", "--output-format=json",
             f"--output={report}"]
    if allow_failure:
        words.append("--continue_on_error=write")
    done = subprocess.run(servers.pinned(servers.CLIENT_CORE) + words, capture_output=True, text=True,
                          timeout=1800, check=False, start_new_session=True, preexec_fn=servers.go_first)
    with open(report, encoding="utf-8") as file:
        text = file.read()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    if done.returncode != 0 and not allow_failure:
        raise RuntimeError(f"fio: {done.stderr.strip() or job['error']}")
    side = job["write"]
    at = side["clat_ns"].get("percentile", {})
    return {"mib_s": side["io_bytes"] / MIB / max(side["runtime"] / 1e3, 1e-3),
            "seconds": side["runtime"] / 1e3,
            "bytes": side["io_bytes"], "p50_us": at.get("50.000000", 0) / 1e3, "p99_us": at.get("99.000000",
                                                                                                0) / 1e3,
            "p999_us": at.get("99.900000", 0) / 1e3, "max_us": at.get("100.000000", 0) / 1e3,
            "errors": job.get("total_err", 0)}


def of_volume(shown):
    merged = [s for s in shown["segments"] if s["state"] == "merged"]
    return {"failed": shown["failed_writes"], "held": shown["holds"],
            "hold_s_max": shown["hold_us_max"] / 1e6,
            "segments": len(shown["segments"]), "merged": len(merged) - 1,
            "found_warm": shown["first_redirect_to_warm"], "capacity": shown["capacity"],
            "used": shown["used"]}


def grown(binary, directory, size, delay=0.0):
    with Halves(binary, directory, 2 * size + 4 * GIB, delay) as halves:
        halves.ask("volume", "create", "race", "--size", str(4 * size), "--primary", str(PRIMARY), "--pool",
                   "bench")
        halves.wait(lambda: any(s["state"] == "warm" for s in halves.show("race")["segments"]),
                    "a warm shadow")
        figures = write_all(halves.show("race")["uri"], directory, size)
        return {**figures, **of_volume(halves.show("race"))}


def preallocated(binary, directory, size):
    with Halves(binary, directory, size + 2 * GIB) as halves:
        # All of the pool: control has nothing to grant.
        halves.ask("volume", "create", "race", "--size", str(4 * size), "--primary",
                   str(size + size // 16 + 128 * MIB),
                   "--pool", "bench")
        figures = write_all(halves.show("race")["uri"], directory, size)
        return {**figures, **of_volume(halves.show("race"))}


def without_control(binary, directory, size):
    """Control is killed when the first shadow is warm; started again when the writer has been refused."""
    with Halves(binary, directory, 2 * size + 4 * GIB) as halves:
        halves.ask("volume", "create", "race", "--size", str(4 * size), "--primary", str(PRIMARY), "--pool",
                   "bench",
                   "--hold-timeout", f"{HOLD_TIMEOUT}s")
        halves.wait(lambda: any(s["state"] == "warm" for s in halves.show("race")["segments"]),
                    "a warm shadow")
        # Not in the middle of another grant: the agent would finish it.
        before = halves.settled("race")
        halves.control.kill()
        halves.control.wait()
        # A little more than there is: what comes after the wall is refused, 8 writes at a time, each after
        # the hold.
        beyond = write_all(before["uri"], directory, before["capacity"] + 4 * MIB, allow_failure=True)
        halves.control = halves.start([], "--state", halves.control_state, "control", "--shadow-max", "4GiB")
        halves.wait(lambda: halves.ask("status", check=False).returncode == 0 and
                    json.loads(halves.ask("status").stdout)["agents"], "the agent again")
        halves.wait(lambda: any(s["state"] == "warm" for s in halves.show("race")["segments"]),
                    "a shadow again")
        again = write_all(before["uri"], directory, before["capacity"] + 64 * MIB)
        return {"capacity_when_control_died": before["capacity"], "written_without_control": beyond["bytes"],
                "refused": beyond["errors"], "seconds": beyond["seconds"], "mib_s_again": again["mib_s"],
                **of_volume(halves.show("race"))}


def race(binary, directory, size, rounds, say):
    """The samples of all rounds: grown and preallocated in turn, then far away and without control once."""
    place = os.path.join(directory, "race")
    out = {"size": size, "grown": [], "preallocated": []}
    for number in range(rounds):
        kinds = (("grown", grown), ("preallocated", preallocated))
        for name, run in kinds if number % 2 == 0 else reversed(kinds):
            sample = run(binary, place, size)
            say(f"  {name:13} {sample['mib_s']:7.0f} MiB/s, p50 {sample['p50_us']:.0f} us, p99.9"
                f" {sample['p999_us']:.0f} us, failed {sample['failed']}, held {sample['held']},"
                f" {sample['merged']} shadows merged, {sample['found_warm']} redirects found one warm")
            out[name].append(sample)
    out["far_away"] = sample = grown(binary, place, size, DELAY_SECONDS)
    say(f"  control {DELAY_SECONDS} s away: {sample['mib_s']:.0f} MiB/s, p99.9 {sample['p999_us']:.0f} us,"
        f" failed"
        f" {sample['failed']}, held {sample['held']}, longest {sample['hold_s_max']:.2f} s")
    out["without_control"] = sample = without_control(binary, place, size)
    say(f"  control dead at {sample['capacity_when_control_died'] / MIB:.0f} MiB of capacity:"
        f" {sample['written_without_control'] / MIB:.0f} MiB written, then held"
        f" {sample['hold_s_max']:.2f} s and refused;"
        f" after its return {sample['mib_s_again']:.0f} MiB/s")
    return out
