"""One run of fio against one server, and what the server spent on it."""
import json
import os
import subprocess
import time

from servers import CLIENT_CORE, go_first, pinned, process_seconds, thread_seconds

RUN_SECONDS_MAX = 300


def machine_busy_seconds():
    """CPU seconds every core together has spent on anything since boot."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(word) for word in file.readline().split()[1:]]
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")


def fio(server, directory, **options):
    """Runs fio's nbd engine with these options, `bs="4k"` for --bs=4k and so on; its only job's report."""
    report = os.path.join(directory, "fio.json")
    words = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={server.uri}", "--thread",
             "--randseed=20260101", "--output-format=json", f"--output={report}"]
    words += [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(pinned(CLIENT_CORE) + words, capture_output=True, text=True,
                          timeout=RUN_SECONDS_MAX, cwd=directory, start_new_session=True,
                          preexec_fn=go_first, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"fio on {server.name}: {done.stderr.strip() or done.stdout.strip()}")
    with open(report, encoding="utf-8") as file:
        text = file.read()
    job = json.loads(text[text.index("{"):])["jobs"][0]  # fio may write a notice before the report
    if job["error"] != 0:
        raise RuntimeError(f"fio on {server.name}: error {job['error']}")
    return job


def measure(server, directory, **options):
    """One run; figures by name. CPU figures are the server's; `other_cores` is the rest of the machine."""
    threads = thread_seconds(server.pid)
    cpu, busy, children = process_seconds(server.pid), machine_busy_seconds(), os.times()
    began = time.monotonic()
    job = fio(server, directory, **options)
    wall = time.monotonic() - began
    cpu, busy, ended = process_seconds(server.pid) - cpu, machine_busy_seconds() - busy, os.times()
    busiest = max((now - threads.get(thread, 0.0) for thread, now in thread_seconds(server.pid).items()),
                  default=0.0)
    client = sum(ended[2:4]) - sum(children[2:4])  # user and system seconds of ended children: fio
    side = max((job["read"], job["write"]), key=lambda part: part["total_ios"])
    ios, size = side["total_ios"], side["io_bytes"]
    latency = side["clat_ns"].get("percentile", {})
    return {
        "ios": ios,
        "cpu_us": cpu * 1e6 / ios,
        "busiest_thread_us": busiest * 1e6 / ios,
        "iops": side["iops"],
        "mib_s": size / 2**20 / (side["runtime"] / 1e3),
        "cpu_us_mib": cpu * 1e6 / (size / 2**20),
        "p50_us": latency.get("50.000000", 0) / 1e3,
        "p99_us": latency.get("99.000000", 0) / 1e3,
        "other_cores": max(0.0, busy - cpu - client) / wall,
    }


def fill(server, directory, size):
    """Writes all of [0, size) once, in order."""
    fio(server, directory, rw="write", bs="1m", size=size, iodepth=8, end_fsync=1)
