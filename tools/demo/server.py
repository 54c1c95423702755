"""The foreshadow server of the demo, and what it says of its volume."""
import ctypes
import json
import os
import signal
import subprocess
import time

VOLUME = "demo"
POOL = "demo"
CALL_S = 60


class SetupError(Exception):
    """The demo cannot run here; the text says what to do about it."""


def die_with_parent(number):
    """For a child: the kernel sends it this signal when the demo ends, however that comes about."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(number), 0, 0, 0)


def run(command, timeout=CALL_S, check=True):
    """Runs a command to its end. RuntimeError with its words if it fails, or takes longer than it should."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(command)}: not done after {timeout} s") from None
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise RuntimeError(f"{' '.join(command)}: {words}")
    return done


class Server:
    """`foreshadow up` on a state directory. Owns the process; ask() may be called from any thread."""

    def __init__(self, binary, state):
        self.binary = binary
        self.state = state
        self.process = None

    def command(self, *words):
        return [self.binary, "--state", self.state, "-o", "json", *words]

    def ask(self, *words, timeout=CALL_S):
        done = run(self.command(*words), timeout)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def status(self):
        """None if nobody answers."""
        try:
            return self.ask("status", timeout=5)
        except RuntimeError:
            return None

    def ready(self):
        """Control answers a moment before the agent has found it."""
        status = self.status()
        return status is not None and len(status["agents"]) > 0

    def options(self):
        """A demo is short: small shadows let the whole of their life be seen."""
        known = run([self.binary, "up", "--help"]).stdout
        return ["--shadow-max", "512MiB"] if "--shadow-max" in known else []

    def start(self):
        log_path = os.path.join(self.state, "server.log")
        command = [self.binary, "--state", self.state, "up", *self.options()]
        with open(log_path, "wb") as log:
            # A session of its own, so that Ctrl-C reaches the demo alone, which takes things down in order.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM))
        end = time.monotonic() + 30
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                with open(log_path, encoding="utf-8", errors="replace") as log:
                    words = log.read()[-2000:]
                raise SetupError(f"the server did not come up; {log_path} says:\n{words}")
            time.sleep(0.1)
        return command

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """Asks, waits, and insists only if it does not end within half a minute."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def create(self, directory, capacity):
        os.makedirs(directory)
        self.ask("pool", "add", POOL, "--dir", directory, "--capacity", str(capacity))
        self.ask("volume", "create", VOLUME, "--size", "1TiB", "--primary", "256MiB", "--pool", POOL)
        return self.show()

    def show(self):
        return self.ask("volume", "show", VOLUME, timeout=10)

    def settled(self):
        """The volume once what is known of it is no older than this call: metrics come every second."""
        time.sleep(2.2)
        return self.show()

    def events(self, after=0):
        return self.ask("events", "--volume", VOLUME, "--after", str(after), timeout=10) or []
