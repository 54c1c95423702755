"""What the process-level tests share: a sandbox with servers in it, the command line, a volume's affairs.

The tests see Foreshadow as its users do: a process, a command line, a socket. Nothing here waits by sleeping
where something can be waited for: a server is ready when it says so, a volume has changed when the record of
events has grown. Every process started here dies with the test that started it.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SKIPPED = 77  # SKIP_RETURN_CODE of ctest
DEADLINE = 120  # seconds for one step; reached only if something hangs
BINARY = os.environ.get("FORESHADOW_BINARY", "foreshadow")
_LIBC = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    """The machine lacks something that the test needs; the text says what."""


def need(*programs):
    """Where the programs are that the test needs, or Skip. Administrators' programs count as well."""
    places = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    found = [shutil.which(program, path=places) for program in programs]
    for program, place in zip(programs, found):
        if place is None:
            raise Skip(f"{program} is not installed")
    return found[0] if len(found) == 1 else found


def libnbd():
    """The Python module of libnbd. Packages install it for the system's own python3."""
    try:
        import nbd
    except ImportError:
        raise Skip("python3 has no libnbd module") from None
    return nbd


def connect(volume):
    handle = libnbd().NBD()
    handle.connect_uri(volume.uri())
    return handle


def die_with_parent():
    """Run in the child: a test that is killed leaves no server behind."""
    PR_SET_PDEATHSIG = 1
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(*words, ok=True, timeout=DEADLINE, **options):
    """Runs a program to its end; its output if it does well, else an error that shows what it said."""
    # nbdsh starts whatever python3 comes first, and is to get the one that has libnbd's module, as we do.
    path = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', '')}"
    options.setdefault("env", {**os.environ, "PATH": path})
    done = subprocess.run([str(word) for word in words], text=True, timeout=timeout, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False, **options)
    if ok and done.returncode != 0:
        command = " ".join(str(word) for word in words)
        raise AssertionError(f"`{command}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout if ok else done


def take_mounts_apart():
    """What is mounted from here on is seen by this process and its children only, and goes when they do."""
    CLONE_NEWNS = 0x20000
    if _LIBC.unshare(CLONE_NEWNS) != 0:
        raise Skip(f"a mount namespace of its own: {os.strerror(ctypes.get_errno())}")
    run("mount", "--make-rprivate", "/")


class Sandbox:
    """A directory of its own, in memory where there is room, and the servers in it; both end with it."""

    def __enter__(self):
        # A unix socket's path has about 100 bytes, so the directory's own name is short.
        place = os.environ.get("TMPDIR")
        if place is None and os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 3 * GIB:
            place = "/dev/shm"
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="fsh-", dir=place))
        self.servers = []
        return self

    def __exit__(self, kind, value, trace):
        for server in reversed(self.servers):
            server.kill()
        if kind is not None and not issubclass(kind, Skip):
            for server in self.servers:
                print(f"--- the end of {server.log_path.name}:\n{server.log()[-4000:]}", file=sys.stderr)
        shutil.rmtree(self.path, ignore_errors=True)

    def up(self, state="s", **options):
        return Server(self, "up", state, **options)

    def file(self, name, content=b""):
        path = self.path / name
        path.write_bytes(content)
        return path

    def random_file(self, name, size):
        path = self.path / name
        with open(path, "wb") as out:
            for _ in range(0, size, MIB):
                out.write(os.urandom(MIB))
        return path


class Server:
    """One long-running `foreshadow`: up, control or agent. `start` returns once it says that it is up."""

    def __init__(self, sandbox, command, state, *arguments, control=None, start=True):
        self.sandbox, self.command, self.arguments = sandbox, command, [str(word) for word in arguments]
        self.state = sandbox.path / state
        self.control = control  # the server that is asked about volumes: of an agent, its control
        self.log_path = sandbox.path / f"{state}.{command}.log"
        self.process = None
        sandbox.servers.append(self)
        if start:
            self.start()

    def start(self):
        words = [BINARY, "--state", str(self.state), self.command, *self.arguments]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=log, preexec_fn=die_with_parent)
        lines = queue.Queue()
        # The pipe is read to its end, so that the server never waits for its reader.
        threading.Thread(target=self._read, args=(self.process.stdout, lines), daemon=True).start()
        self.said = ""
        while not self.said.rpartition("\n")[0].rpartition("\n")[2].startswith("next:"):
            line = lines.get(timeout=DEADLINE)
            if line is None:
                code = self.process.wait()
                raise AssertionError(f"{self.command} ended with {code} instead of coming up:\n{self.log()}")
            self.said += line
        return self

    @staticmethod
    def _read(pipe, lines):
        with pipe:
            for line in pipe:
                lines.put(line.decode())
        lines.put(None)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def kill(self):
        """kill -9, by its id; what has ended already stays ended."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self):
        """As an administrator does; it must end by itself, well, and without a word of a defect."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=DEADLINE)
        assert code == 0, f"{self.command} ended with {code} on SIGTERM:\n{self.log()[-4000:]}"
        for word in ("Sanitizer", "ASSERT", "assertion"):
            assert word not in self.log(), f"{self.command} tells of a defect:\n{self.log()[-4000:]}"

    def running(self):
        return self.process is not None and self.process.poll() is None

    def cli(self, *words, ok=True):
        """What the command line answers, read from JSON; with ok=False the ended process, whatever it did."""
        state = (self.control or self).state
        if not ok:
            return run(BINARY, "--state", state, *words, ok=False)
        out = run(BINARY, "--state", state, "-o", "json", *words)
        return json.loads(out) if out.strip() else None

    def pool(self, name, capacity=None):
        directory = self.sandbox.path / f"pool-{name}"
        directory.mkdir(exist_ok=True)
        self.cli("pool", "add", name, "--dir", directory, *(["--capacity", capacity] if capacity else []))

    def create(self, name, size="1GiB", primary="16MiB", pool=None, **options):
        words = []
        for key, value in options.items():  # True: a flag
            words += [f"--{key.replace('_', '-')}"] + ([] if value is True else [value])
        if pool is not None:
            words += ["--pool", pool]
        self.cli("volume", "create", name, "--size", size, "--primary", primary, *words)
        return Volume(self, name)

    def small_volume(self, name="db", size="1GiB", shadows=4, pool_size="80MiB", **options):
        """A volume that has to grow: 16 MiB of primary, policy's first shadow of 64 MiB (its pool has room
        for no other, unless it is made larger) and some of 16 MiB granted by hand from another pool, all of
        them warm."""
        pool = f"of-{name}"
        self.pool(pool, pool_size)
        volume = self.create(name, size=size, pool=pool, **options)
        volume.wait_for(lambda shown: any(s["state"] == "warm" for s in shown["segments"]))
        for _ in range(shadows):
            volume.grant()
        return volume


def settled(shown):
    """No shadow is on its way from one state to the next."""
    return all(segment["state"] in ("warm", "active", "merged") for segment in shown["segments"])


def merged_shadows(shown):
    return sum(s["role"] == "shadow" and s["state"] == "merged" for s in shown["segments"])


class Volume:
    def __init__(self, server, name):
        self.server, self.name = server, name

    def uri(self):
        # Not asked of control, which may be away.
        return f"nbd+unix:///{self.name}?socket={self.socket()}"

    def socket(self):
        return self.server.state / "nbd.sock"

    def show(self):
        return self.server.cli("volume", "show", self.name)

    def grant(self, size="16MiB", pool="default", ok=True):
        return self.server.cli("shadow", "grant", self.name, "--size", size, "--pool", pool, ok=ok)

    def merge(self, ok=True):
        return self.server.cli("shadow", "merge", self.name, ok=ok)

    def check(self):
        """Every invariant on disk."""
        report = self.server.cli("volume", "check", self.name)
        assert report["ok"], f"volume check {self.name}: {report['findings']}"
        return report

    def wait_for(self, good, server=None):
        """Looks at the volume again whenever something was recorded about it, until it is as it should be."""
        server = server or self.server
        with Events(server) as events:
            ends = time.monotonic() + DEADLINE
            while time.monotonic() < ends:
                shown = self.show()
                if good(shown):
                    return shown
                events.wait()
        raise AssertionError(f"volume {self.name} did not become what was waited for: {json.dumps(shown)}")

    def refresh(self):
        """The volume as it is now: the agent's figures come once a second; one report may be under way."""
        seen = self.show()["forecast"]["samples"]
        return self.wait_for(lambda shown: shown["forecast"]["samples"] >= seen + 2)

    def backings(self):
        """The segment files in every pool directory of the sandbox that carry this volume's id."""
        volume = self.show()["id"]
        files = self.server.sandbox.path.glob(f"**/{volume}.*.seg")
        return sorted(file.name.split(".")[1] for file in files)

    def expect_well(self, merged=1, holds=0):
        """What every test ends with: nothing failed, nothing was held, and it did grow meanwhile."""
        self.check()
        self.refresh()
        shown = self.wait_for(settled)
        assert shown["failed_writes"] == 0, f"{shown['failed_writes']} writes failed"
        assert shown["read_only_reason"] == "", shown["read_only_reason"]
        if holds is not None:
            assert shown["holds"] <= holds, f"{shown['holds']} writes were held, expected at most {holds}"
        count = merged_shadows(shown)
        assert count >= merged, f"{count} shadows merged, expected {merged}: {json.dumps(shown['segments'])}"
        listed = sorted(s["uuid"] for s in shown["segments"])
        assert self.backings() == listed, f"in the pools {self.backings()}, in the volume {listed}"
        return shown


class Events:
    """`events --follow`, as a thing to wait for."""

    def __init__(self, server):
        state = (server.control or server).state
        self.words = [BINARY, "--state", str(state), "-o", "json", "events", "--follow"]

    def __enter__(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)
        self.lines = queue.Queue()
        arguments = (self.process.stdout, self.lines)
        self.thread = threading.Thread(target=Server._read, args=arguments, daemon=True)
        self.thread.start()
        return self

    def wait(self):
        """Until something is recorded, or for a second: figures change with the metrics, without an event."""
        with contextlib.suppress(queue.Empty):
            self.lines.get(timeout=1)
            while True:
                self.lines.get_nowait()

    def wait_for(self, kind, volume=None):
        ends = time.monotonic() + DEADLINE
        while time.monotonic() < ends:
            line = self.lines.get(timeout=DEADLINE)
            assert line is not None, f"the events ended before {kind}"
            event = json.loads(line)
            if event["kind"] == kind and volume in (None, event["volume"]):
                return event
        raise AssertionError(f"no event {kind} within {DEADLINE} s")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.thread.join()


class Churn(threading.Thread):
    """Grants shadows and merges them, one after the other, while something else goes on."""

    def __init__(self, volume, size="16MiB", rounds_max=24, rounds_min=2, tolerant=False):
        super().__init__(daemon=True)
        self.volume, self.size, self.tolerant = volume, size, tolerant
        self.rounds_max, self.rounds_min = rounds_max, rounds_min
        self.rounds = 0
        self.wanted_end = threading.Event()
        self.failure = None

    def run(self):
        while self.rounds < self.rounds_max:
            if self.wanted_end.is_set() and self.rounds >= self.rounds_min:
                return
            granted = self.volume.grant(self.size, ok=False)
            merged = self.volume.merge(ok=False)
            # Control merges what is full as well, and may have been first.
            first = "has no shadow that is not merged" in merged.stderr
            for done in (granted, merged):
                if done.returncode != 0 and not (first and done is merged):
                    self.failure = done.stderr
                    return
            self.rounds += 1

    def __enter__(self):
        self.start()
        return self

    def enough(self):
        return self.rounds >= self.rounds_min or not self.is_alive()

    def __exit__(self, kind, *_):
        self.wanted_end.set()
        if kind is not None:
            self.rounds_min = 0
        self.join()
        if kind is None and self.failure is not None and not self.tolerant:
            raise AssertionError(f"a shadow was not granted or merged by hand: {self.failure}")


def main(tests):
    """Runs the one test that the command line names; ctest has an entry for each."""
    if len(sys.argv) != 2 or sys.argv[1] not in tests:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(tests)}")
    try:
        with Sandbox() as sandbox:
            tests[sys.argv[1]](sandbox)
    except Skip as reason:
        print(f"skipped: {reason}")
        sys.exit(SKIPPED)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    print(f"{sys.argv[1]}: ok")
