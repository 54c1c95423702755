"""What the demo shows while it runs: a panel on a terminal, lines elsewhere."""
import os
import shutil
import sys
import threading
import time
from collections import deque

from demo.files import GIB, MIB

POLL_S = 0.5
LINE_S = 3.0
EVENTS_SHOWN = 8
BOLD, RESET = "\x1b[1m", "\x1b[0m"
COLOURS = {"warm": "\x1b[33m", "active": "\x1b[36m", "merged": "\x1b[32m", "granted": "\x1b[35m"}


def size_text(count):
    if count >= 1024 * GIB:
        return f"{count / (1024 * GIB):.4g} TiB"
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def time_text(seconds):
    if seconds < 0:
        return "not within a year"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def bar(share, width):
    full = round(max(0.0, min(1.0, share)) * width)
    return "█" * full + "░" * (width - full)


def event_text(event):
    """What it says up to the policy's reasons, which `foreshadow explain` has in full."""
    words = event["message"].split(": ", 1)[0].split(" as segment ", 1)[0].split(" at agent ", 1)[0]
    return f"{event['kind']:<16} {words}"


class Phase:
    """A part of the demo, and how far it is: done() of total, in bytes where there is a total."""

    def __init__(self, name, total=0, done=None):
        self.name, self.total, self.done = name, total, done
        self.start = time.monotonic()

    def text(self):
        seconds = time.monotonic() - self.start
        if not self.total or self.done is None:
            return f"{self.name} ({seconds:.0f} s)"
        done = min(self.done(), self.total)
        rate = done / seconds if seconds > 0 else 0
        percent = 100 * done // self.total
        text = f"{self.name}: {size_text(done)} of {size_text(self.total)} ({percent} %)"
        if rate == 0 or seconds < 1:
            return text
        return f"{text}, {size_text(rate)}/s, about {time_text(round((self.total - done) / rate))} left"

    def share(self):
        return self.done() / self.total if self.total and self.done else 0.0


class View:
    """Polls the server on a thread of its own, and draws. The demo calls say() and phase() from its own."""

    def __init__(self, server):
        self.server = server
        self.tty = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.lock = threading.Lock()
        self.end = threading.Event()
        self.thread = None
        self.current = Phase("starting")
        self.volume = None
        self.counts = {}
        self.recent = deque(maxlen=EVENTS_SHOWN)
        self.sequence = 0
        self.drawn = 0
        self.line_due = 0.0
        self.phases = {}
        self.begin = time.monotonic()

    def start(self):
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def stop(self):
        """Leaves the last panel standing."""
        if self.thread:
            self.end.set()
            self.thread.join(15)
            self.thread = None

    def say(self, text):
        with self.lock:
            self.print_above(text)

    def phase(self, name, total=0, done=None):
        self.finish_phase()
        with self.lock:
            self.current = Phase(name, total, done)
            if not self.tty:
                self.print_above(name)
            self.line_due = time.monotonic() + LINE_S

    def finish_phase(self):
        phase = self.current
        self.phases[phase.name] = round(time.monotonic() - phase.start, 1)
        return self.phases[phase.name]

    def print_above(self, text):
        if self.tty:
            self.erase()
            sys.stdout.write(text + "\n")
            self.draw()
        else:
            sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
        sys.stdout.flush()

    def watch(self):
        while not self.end.is_set():
            self.poll()
            self.end.wait(POLL_S)

    def poll(self):
        try:
            volume = self.server.show()
            events = self.server.events(self.sequence)
        except (RuntimeError, OSError, ValueError):
            return  # the next look may be luckier; that the server is gone is the demo's to notice
        with self.lock:
            self.volume = volume
            for event in events:
                self.sequence = max(self.sequence, event["sequence"])
                self.counts[event["kind"]] = self.counts.get(event["kind"], 0) + 1
                self.recent.append(event_text(event))
                if not self.tty:
                    self.print_above("  " + event_text(event))
            if self.tty:
                self.erase()
                self.draw()
            elif time.monotonic() >= self.line_due:
                self.print_above(self.line())
                self.line_due = time.monotonic() + LINE_S
            sys.stdout.flush()

    def states(self):
        counted = {}
        for segment in self.volume["segments"]:
            if segment["role"] == "shadow":
                counted[segment["state"]] = counted.get(segment["state"], 0) + 1
        return ", ".join(f"{count} {state}" for state, count in counted.items()) or "none"

    def line(self):
        volume, forecast = self.volume, self.volume["forecast"]
        used = f"used {size_text(volume['used'])} of {size_text(volume['capacity'])}"
        full = (f"full in {time_text(forecast['time_to_full_p50_s'])} (p50), "
                f"{time_text(forecast['time_to_full_p95_s'])} (p95)")
        return f"  {self.current.text()} | {used} | {full} | shadows: {self.states()}"

    def erase(self):
        if self.drawn:
            sys.stdout.write(f"\x1b[{self.drawn}A\r\x1b[J")
            self.drawn = 0

    def panel(self, width):
        volume, forecast = self.volume, self.volume["forecast"]
        latest = volume["latest"] or {}
        used, capacity = volume["used"], volume["capacity"]
        seconds = int(time.monotonic() - self.begin)
        lines = [f"foreshadow: a {size_text(volume['size'])} volume that grows before it is full   "
                 f"{seconds // 60:02d}:{seconds % 60:02d}",
                 f"  {bar(self.current.share(), 20)}  {self.current.text()}",
                 f"  used        {bar(used / max(capacity, 1), 20)}  {size_text(used)} of "
                 f"{size_text(capacity)} capacity, {len(volume['segments'])} segments",
                 f"  forecast    full in {time_text(forecast['time_to_full_p50_s'])} (p50), "
                 f"{time_text(forecast['time_to_full_p95_s'])} (p95); a shadow takes "
                 f"{time_text(forecast['lead_time_p99_s'])} to become warm",
                 f"  throughput  {size_text(latest.get('write_bytes', 0))}/s written, "
                 f"{size_text(latest.get('read_bytes', 0))}/s read, {latest.get('flushes', 0)} flushes",
                 f"  writes      {volume['holds']} held, {volume['failed_writes']} failed; "
                 f"{volume['first_redirect_to_warm']} redirects found a warm shadow at hand", ""]
        segments = volume["segments"]
        for segment in segments[-10:]:
            share = segment["used"] / max(segment["capacity"], 1)
            lines.append(f"  {segment['id']:>3}  {segment['role']:<8}{segment['state']:<9}{bar(share, 20)}  "
                         f"{size_text(segment['used'])} of {size_text(segment['capacity'])}")
        if len(segments) > 10:
            lines.insert(7, f"       and {len(segments) - 10} before these, merged")
        lines.append("")
        lines += [f"  {event}" for event in self.recent]
        return [line[:width] for line in lines]

    def draw(self):
        if self.volume is None:
            return
        columns, rows = shutil.get_terminal_size()
        lines = self.panel(columns - 1)[:max(rows - 2, 1)]
        self.drawn = len(lines)
        for number, line in enumerate(lines):
            for state, colour in COLOURS.items():
                line = line.replace(f"shadow  {state} ", f"shadow  {colour}{state}{RESET} ")
            sys.stdout.write((BOLD + line + RESET if number == 0 else line) + "\n")
