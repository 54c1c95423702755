"""A writer that knows what a volume may hold after a crash, to the sector (promises G1 and G2).

Each 512-byte sector is filled with its own address and the sequence number of the write, so that a sector
that shows another block's data, a mixture or a lost write cannot be mistaken for a good one. What was issued
is noted before it is sent, what was acknowledged after: a crash may leave, in each sector, what the last
acknowledged flush covered or anything issued since, and nothing else.
"""
import random
import select
import struct
import threading
import time

import support

SECTOR = 512
CLUSTER = 128  # sectors
ZERO = bytes(SECTOR)
_STAMP = struct.Struct("<Qq")


def stamp(sector, sequence):
    return _STAMP.pack(sector, sequence) * (SECTOR // _STAMP.size)


class Ledger:
    """What each sector of [0, sectors) may hold, as the sequence number of the write that put it there.

    Numbers grow with each request; one that wrote zeroes has its number negated. 0 is the volume as it was.
    """

    def __init__(self, sectors):
        self.sectors = sectors
        self.durable = [0] * sectors  # what the last flush covered
        self.current = [0] * sectors  # the newest acknowledged
        self.since = {}               # sector -> what was issued after `durable`, in order
        self.sequence = 0
        self.acknowledged = 0

    def issue(self, first, count, zero):
        self.sequence += 1
        sequence = -self.sequence if zero else self.sequence
        for sector in range(first, first + count):
            self.since.setdefault(sector, []).append(sequence)
        return sequence

    def acknowledge(self, first, count, sequence):
        self.acknowledged += 1
        self.current[first:first + count] = [sequence] * count

    def make_durable(self, covered):
        """`covered`: (sector, sequence) pairs that were acknowledged before a flush, which now is too."""
        for sector, sequence in covered:
            if abs(sequence) <= abs(self.durable[sector]):
                continue  # a later write with FUA was there first
            self.durable[sector] = sequence
            later = [other for other in self.since.pop(sector, ()) if abs(other) > abs(sequence)]
            if later:
                self.since[sector] = later

    def fill(self, handle):
        """Writes all of it, and flushes."""
        chunk = 2048
        for first in range(0, self.sectors, chunk):
            count = min(chunk, self.sectors - first)
            sequence = self.issue(first, count, zero=False)
            handle.pwrite(b"".join(stamp(first + i, sequence) for i in range(count)), first * SECTOR)
            self.acknowledge(first, count, sequence)
        handle.flush()
        self.durable = list(self.current)
        self.since.clear()

    def verify(self, sector, content):
        """The sequence number that the sector shows; None if it is one that it must not show."""
        allowed = [self.durable[sector], *self.since.get(sector, ())]
        if content == ZERO:
            return max((sequence for sequence in allowed if sequence <= 0), key=abs, default=None)
        address, sequence = _STAMP.unpack_from(content)
        good = address == sector and sequence in allowed and content == stamp(sector, sequence)
        return sequence if good else None

    def describe(self, sector, content):
        address, sequence = _STAMP.unpack_from(content)
        whole = f"sector {address}, write {sequence}"
        whole += "" if content == stamp(address, sequence) else ", torn"
        return (f"sector {sector} shows {'zeroes' if content == ZERO else whole}; flushed was write "
                f"{self.durable[sector]}, issued since were {self.since.get(sector, [])} (negative: zeroes)")

    def verify_volume(self, handle):
        """Reads all, judges each sector, and takes what it shows for what is there."""
        chunk = 2048
        for first in range(0, self.sectors, chunk):
            count = min(chunk, self.sectors - first)
            data = bytes(handle.pread(count * SECTOR, first * SECTOR))
            for i in range(count):
                content = data[i * SECTOR:(i + 1) * SECTOR]
                shown = self.verify(first + i, content)
                if shown is None:
                    raise AssertionError(self.describe(first + i, content))
                self.current[first + i] = shown
        handle.flush()  # from here on what was read is to stay
        self.durable = list(self.current)
        self.since.clear()


class Request:
    """One in flight; count 0 is a flush, which `covers` what was acknowledged when it was sent."""

    def __init__(self, kind, first=0, count=0):
        self.kind, self.first, self.count = kind, first, count
        self.sequence = self.buffer = self.cookie = self.covers = None


class Writer:
    """Keeps requests in flight over two connections until told to stop or the server is gone. One thread.

    No two requests in flight overlap, so that their order is that of their sequence numbers. A request that
    fails while the server is there is an error.
    """

    SHARES = {"write": 66, "fua": 8, "zero": 6, "trim": 6, "flush": 6, "read": 8}

    def __init__(self, volume, ledger, seed, depth=16):
        self.nbd, self.ledger, self.random, self.depth = support.libnbd(), ledger, random.Random(seed), depth
        self.handles = [support.connect(volume) for _ in range(2)]
        self.flying = [[] for _ in self.handles]
        self.acknowledged = {}  # sector -> sequence, since the last flush was sent
        self.gone = False

    def run(self, until):
        """Until `until()` says so, or the server is gone; then takes the answers that are still to come."""
        while not self.gone and not until():
            while self.in_flight() < self.depth and not self.gone and self._submit():
                pass
            self._wait(100)
        ends = time.monotonic() + 60
        while not self.gone and self.in_flight() > 0:
            assert time.monotonic() < ends, f"{self.in_flight()} requests were not answered within a minute"
            self._wait(1000)

    def close(self):
        for handle in self.handles:
            try:
                handle.shutdown()
            except self.nbd.Error:
                pass  # the server may be gone

    def in_flight(self):
        return sum(map(len, self.flying))

    def _busy(self, first, count):
        return any(request.first < first + count and first < request.first + request.count
                   for flying in self.flying for request in flying)

    def _choose(self):
        kind = self.random.choices(list(self.SHARES), self.SHARES.values())[0]
        if kind == "flush":
            return Request(kind)
        count = min(1 << self.random.randrange(9), self.ledger.sectors)
        align = self.random.choice((1, 8, CLUSTER))
        if kind == "trim":  # of whole clusters: what is trimmed of others may stay
            count, align = max(count * 2, CLUSTER), CLUSTER
        first = self.random.randrange(self.ledger.sectors - count + 1) // align * align
        return None if self._busy(first, count) else Request(kind, first, count)

    def _submit(self):
        request = self._choose()
        if request is None:
            return True
        lane = self.random.randrange(len(self.handles))
        try:
            self._send(self.handles[lane], request)
        except self.nbd.Error as error:
            self._lost(self.handles[lane], error)
            return False
        self.flying[lane].append(request)
        return True

    def _send(self, handle, request):
        offset, length = request.first * SECTOR, request.count * SECTOR
        if request.kind == "flush":
            request.covers, self.acknowledged = self.acknowledged, {}
            request.cookie = handle.aio_flush()
            return
        if request.kind == "read":
            request.buffer = self.nbd.Buffer(length)
            request.cookie = handle.aio_pread(request.buffer, offset)
            return
        zero = request.kind in ("zero", "trim")
        request.sequence = self.ledger.issue(request.first, request.count, zero)
        if zero:
            send = handle.aio_zero if request.kind == "zero" else handle.aio_trim
            request.cookie = send(length, offset)
            return
        data = b"".join(stamp(request.first + i, request.sequence) for i in range(request.count))
        request.buffer = self.nbd.Buffer.from_bytearray(bytearray(data))
        request.cookie = handle.aio_pwrite(request.buffer, offset,
                                           flags=self.nbd.CMD_FLAG_FUA if request.kind == "fua" else 0)

    def _wait(self, timeout_ms):
        poll, by_fd = select.poll(), {}
        for lane, handle in enumerate(self.handles):
            if handle.aio_is_dead() or handle.aio_is_closed():
                return self._lost(handle, "connection ended")
            direction, fd = handle.aio_get_direction(), handle.aio_get_fd()
            poll.register(fd, (select.POLLIN if direction & self.nbd.AIO_DIRECTION_READ else 0) |
                          (select.POLLOUT if direction & self.nbd.AIO_DIRECTION_WRITE else 0))
            by_fd[fd] = (lane, handle)
        for fd, events in poll.poll(timeout_ms):
            lane, handle = by_fd[fd]
            try:
                reads = handle.aio_get_direction() & self.nbd.AIO_DIRECTION_READ
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR) and reads:
                    handle.aio_notify_read()
                elif events & (select.POLLOUT | select.POLLHUP | select.POLLERR):
                    handle.aio_notify_write()
            except self.nbd.Error as error:
                self._lost(handle, error)
            self._collect(lane, handle)

    def _collect(self, lane, handle):
        for request in list(self.flying[lane]):
            try:
                if not handle.aio_command_completed(request.cookie):
                    continue
            except self.nbd.Error as error:
                self._lost(handle, error)
                continue
            self.flying[lane].remove(request)
            self._take(request)

    def _lost(self, handle, error):
        if not (handle.aio_is_dead() or handle.aio_is_closed()):
            raise AssertionError(f"I/O error while the server is there: {error}")
        self.gone = True

    def _take(self, request):
        """An answer came."""
        ledger, sectors = self.ledger, range(request.first, request.first + request.count)
        if request.kind == "flush":
            return ledger.make_durable(request.covers.items())
        if request.kind == "read":
            return self._judge_read(request)
        ledger.acknowledge(request.first, request.count, request.sequence)
        if request.kind == "fua":
            ledger.make_durable((sector, request.sequence) for sector in sectors)
        self.acknowledged.update((sector, request.sequence) for sector in sectors)

    def _judge_read(self, request):
        """A read returns the last acknowledged write: nothing that overlaps it was in flight."""
        data = bytes(request.buffer.to_bytearray())
        for i in range(request.count):
            sector, content = request.first + i, data[i * SECTOR:(i + 1) * SECTOR]
            sequence = self.ledger.current[sector]
            if content != (ZERO if sequence <= 0 else stamp(sector, sequence)):
                raise AssertionError(f"while it serves, {self.ledger.describe(sector, content)}; "
                                     f"the last acknowledged was {sequence}")


class Load:
    """The writer at full speed in a thread of its own; leaving the block stops it and tells what it met."""

    def __init__(self, volume, ledger, seed):
        self.writer = Writer(volume, ledger, seed)
        self.wanted_end = threading.Event()
        self.failure = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            self.writer.run(until=self.wanted_end.is_set)
        except AssertionError as failure:
            self.failure = failure

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.wanted_end.set()
        self.thread.join()
        self.writer.close()
        if self.failure is not None:
            raise self.failure
        assert not self.writer.gone, "the agent closed the connection"
