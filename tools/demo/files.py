"""What is copied, by whom, and how it is known to be the same afterwards. *_batch run in workers."""
import concurrent.futures
import errno
import hashlib
import multiprocessing
import os
import signal
import stat
import time
from dataclasses import dataclass

from demo.server import die_with_parent

MIB = 1 << 20
GIB = 1 << 30
CHUNK = MIB
SOURCE = "/usr"
WORKERS = 4


@dataclass
class Item:
    """A file to copy. Without a source its content is made up, of bytes that do not compress."""

    source: str
    name: str  # in the file system
    size: int
    offset: int = 0  # in the volume, where there is no file system


@dataclass
class Copy:
    """A file as it was written, from what its source said while it was read."""

    name: str
    offset: int
    size: int
    digest: bytes


def new_hash():
    return hashlib.blake2b(digest_size=16)


def regular_files(top):
    """Paths and sizes of what can be read, in a fixed order."""
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            try:
                info = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(info.st_mode) and info.st_size > 0 and os.access(path, os.R_OK):
                yield path, info.st_size


def choose(total):
    """Items of `total` bytes in all: the source, again if need be; made up if it has next to nothing."""
    items, size = [], 0
    found = []
    for path, length in regular_files(SOURCE):
        found.append((path, length))
        size += length
        if size >= total:
            break
    if size < total // 16:
        found = [("", 32 * MIB)] * (total // 4 // (32 * MIB) + 1)
    size, turn = 0, 0
    while size < total:
        turn += 1
        for number, (path, length) in enumerate(found):
            name = path.lstrip("/") if path else f"random/{number}"
            items.append(Item(path, f"copy-{turn}/{name}", length))
            size += length
            if size >= total:
                break
    return items


def batches(items, size=32 * MIB, count=400):
    """Neighbours together, so that a worker writes, and later frees, what lies together."""
    out, room = [], 0
    for item in items:
        if not out or room < item.size or len(out[-1]) >= count:
            out.append([])
            room = size
        out[-1].append(item)
        room -= item.size
    return out


_progress = None
_stop = None


def _begin(progress, stop):
    global _progress, _stop
    _progress, _stop = progress, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    die_with_parent(signal.SIGKILL)


def advance(count):
    with _progress.get_lock():
        _progress.value += count


def stopping():
    return _stop.value != 0


def content(item):
    """The chunks of an item, no more than it was planned to have: its source may be growing."""
    left = item.size
    if not item.source:
        while left > 0:
            chunk = os.urandom(min(left, CHUNK))
            left -= len(chunk)
            yield chunk
        return
    with open(item.source, "rb", buffering=0) as source:
        while left > 0:
            chunk = source.read(min(left, CHUNK))
            if not chunk:
                return
            left -= len(chunk)
            yield chunk


def copy_batch(root, items):
    """Returns the copies and, in words, the writes that failed. A source that cannot be read is left out."""
    copies, failed = [], []
    for item in items:
        if stopping():
            break
        path = os.path.join(root, item.name)
        digest, size, chunks = new_hash(), 0, content(item)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb", buffering=0) as out:
                while True:
                    try:
                        chunk = next(chunks, None)
                    except OSError:
                        size = -1
                        break
                    if chunk is None or stopping():
                        break
                    done = 0
                    while done < len(chunk):
                        done += out.write(memoryview(chunk)[done:])
                    digest.update(chunk)
                    size += done
                    advance(done)
            if size < 0:
                os.unlink(path)
            elif not stopping():
                copies.append(Copy(item.name, 0, size, digest.digest()))
        except OSError as error:
            failed.append(f"{item.name}: {error.strerror or error}")
            if error.errno in (errno.ENOSPC, errno.EROFS, errno.EIO):
                break
    return copies, failed


def verify_batch(root, copies):
    """Returns, in words, what differs."""
    differs = []
    for copy in copies:
        if stopping():
            break
        digest, size = new_hash(), 0
        try:
            with open(os.path.join(root, copy.name), "rb", buffering=0) as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    advance(len(chunk))
        except OSError as error:
            differs.append(f"{copy.name}: {error.strerror or error}")
            continue
        if size != copy.size:
            differs.append(f"{copy.name}: {size} bytes, expected {copy.size}")
        elif digest.digest() != copy.digest:
            differs.append(f"{copy.name}: other bytes than were written")
    return differs


class Workers:
    """Processes that copy and compare. They are made at once, before the demo has threads."""

    def __init__(self):
        context = multiprocessing.get_context("fork")
        self.progress = context.Value("Q", 0)
        self.stop_flag = context.Value("b", 0)
        self.pool = concurrent.futures.ProcessPoolExecutor(
            WORKERS, mp_context=context, initializer=_begin, initargs=(self.progress, self.stop_flag))
        list(self.pool.map(time.sleep, [0.01] * WORKERS))

    def done(self):
        return self.progress.value

    def each(self, function, place, groups):
        """The results of function(place, group), as they come."""
        self.progress.value = 0
        futures = [self.pool.submit(function, place, group) for group in groups]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()

    def stop(self):
        self.stop_flag.value = 1
        self.pool.shutdown(wait=True, cancel_futures=True)
