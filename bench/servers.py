"""The servers that are compared, each pinned to one core, and what it takes to start and stop them.

A server here is one process that listens on a unix socket. Its CPU time is read from the process's own
clock, which counts every thread, those that have ended and the kernel's io_uring workers included.
"""
import json
import os
import subprocess
import time

SERVER_CORE = "1"
CLIENT_CORE = "0"
START_SECONDS = 20
CALL_SECONDS = 300


def pinned(core):
    """The words before a command that put it on `core`."""
    return ["taskset", "-c", core]


def go_first():
    """For a child about to start: ahead of what else the machine does, where that is allowed.

    Every measured process gets the same. Niceness counts within a session only where the kernel groups by
    session, so the group's own niceness is set as well.
    """
    if os.geteuid() != 0:
        return
    os.setpriority(os.PRIO_PROCESS, 0, -15)
    try:
        with open("/proc/self/autogroup", "w", encoding="ascii") as file:
            file.write("-15")
    except OSError:
        pass


def process_seconds(pid):
    """CPU seconds of a whole process, user and system: the kernel's per-process clock (CPUCLOCK_SCHED)."""
    return time.clock_gettime((~pid << 3) | 2)


def thread_seconds(pid):
    """CPU seconds of each living thread of a process, by thread id."""
    out = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                out[thread] = int(file.read().split()[0]) / 1e9
        except (FileNotFoundError, ProcessLookupError):
            continue
    return out


class Server:
    """One process that serves `uri` from the end of the constructor until stop().

    On SERVER_CORE and ahead of what else the machine does, unless told otherwise.
    """

    def __init__(self, name, command, socket, export="", core=SERVER_CORE, first=go_first):
        self.name = name
        self.socket = socket
        if os.path.exists(socket):  # a server before this one left it
            os.remove(socket)
        self.uri = f"nbd+unix:///{export}?socket={socket}"
        self.log = open(socket + ".log", "ab")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen(pinned(core) + command, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log, start_new_session=True,
                                        preexec_fn=first)
        self._wait_for_socket()

    @property
    def pid(self):
        return self.process.pid

    def _wait_for_socket(self):
        deadline = time.monotonic() + START_SECONDS
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                with open(self.socket + ".log", encoding="utf-8", errors="replace") as log:
                    raise RuntimeError(f"{self.name} did not come up: {log.read()[-2000:]}")
            time.sleep(0.02)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Foreshadow(Server):
    """`foreshadow up` with a pool `bench` in `directory`; control and agent in the one process measured."""

    def __init__(self, binary, directory, pool_bytes, name="foreshadow", **place):
        self.binary = binary
        self.state = os.path.join(directory, "state")
        os.makedirs(os.path.join(directory, "pool"))
        super().__init__(name, [binary, "--state", self.state, "up"], os.path.join(directory, "up"), **place)
        self.socket = os.path.join(self.state, "nbd.sock")
        # A pool of exactly what the volume takes: control has nothing to grant in the middle of a run.
        self.add_pool("bench", os.path.join(directory, "pool"), pool_bytes)

    def _wait_for_socket(self):
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run([self.binary, "--state", self.state, "status"], capture_output=True,
                             timeout=START_SECONDS, check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.binary} did not come up; see {self.socket}.log")
            time.sleep(0.05)

    def call(self, *words, before=()):
        """A client command, with the words `before` it; its JSON, or None where it prints none."""
        done = subprocess.run([*before, self.binary, "--state", self.state, "-o", "json", *words],
                              capture_output=True, text=True, timeout=CALL_SECONDS, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"foreshadow {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def add_pool(self, name, directory, capacity):
        os.makedirs(directory, exist_ok=True)
        self.call("pool", "add", name, "--dir", directory, "--capacity", str(capacity))

    def create_volume(self, name, size, primary, *flags):
        self.call("volume", "create", name, "--size", str(size), "--primary", str(primary), "--pool", "bench",
                  *flags)
        # Threads started while the process grew inherit the core; the uri is the volume's own from now on.
        self.uri = self.call("volume", "show", name)["uri"]

    def show(self, name):
        return self.call("volume", "show", name)

    def kill(self):
        self.process.kill()
        self.process.wait()


def bench_program(name):
    """A program of bench/, built; its path."""
    build = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "build", "release")
    subprocess.run(["cmake", "--build", build, "--target", name], check=True, timeout=1200,
                   stdout=subprocess.DEVNULL)
    return os.path.join(build, "bench", name)


def raw(directory, image, **place):
    """The NBD server of foreshadow, and nothing between it and the file `image` in `directory`."""
    socket = os.path.join(directory, "bench-raw.sock")
    return Server("foreshadow-bench-raw", [bench_program("foreshadow-bench-raw"), directory, image, socket],
                  socket, export="raw", **place)


def nbdkit(directory, image):
    socket = os.path.join(directory, "nbdkit.sock")
    return Server("nbdkit -t4 file", ["nbdkit", "-f", "-t4", "-U", socket, "file", image], socket)


def qemu_nbd(directory, image, image_format, cache, aio):
    socket = os.path.join(directory, f"qemu-{image_format}.sock")
    return Server(f"qemu-nbd {image_format}",
                  ["qemu-nbd", "-t", "-e", "0", "-k", socket, "-f", image_format, f"--cache={cache}",
                   f"--aio={aio}", image], socket)
