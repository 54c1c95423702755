"""Without root: files back to back in the volume itself, written and read through libnbd."""
from collections import deque

from demo import files
from demo.server import SetupError

BATCH = 128 * files.MIB
IN_FLIGHT = 8
ALIGN = 4096
TRIM = 256 * files.MIB
SYSTEM_PYTHON = "/usr/bin/python3"  # the one Debian's python3-libnbd is for

_connections = {}


def why_not():
    try:
        import nbd  # noqa: F401
    except ImportError:
        return "the demo without a mount takes libnbd's Python module: apt-get install python3-libnbd"
    return ""


def connection(place):
    """This process's connection to (uri, turn); that of an earlier turn is closed."""
    import nbd
    if place not in _connections:
        for old in _connections.values():
            old.shutdown()
        _connections.clear()
        handle = nbd.NBD()
        handle.connect_uri(place[0])
        _connections[place] = handle
    return _connections[place]


class Pipe:
    """Writes one contiguous run of bytes in chunks, several under way at once."""

    def __init__(self, handle, offset):
        self.handle, self.offset = handle, offset
        self.chunk = bytearray()
        self.under_way = deque()

    def add(self, data):
        view = memoryview(data)
        while view:
            room = files.CHUNK - len(self.chunk)
            self.chunk += view[:room]
            view = view[room:]
            if len(self.chunk) == files.CHUNK:
                self.send()

    def pad(self):
        self.add(bytes(-len(self.chunk) % ALIGN))

    def send(self):
        import nbd
        if not self.chunk:
            return
        self.wait(IN_FLIGHT - 1)
        buffer = nbd.Buffer.from_bytearray(self.chunk)
        self.under_way.append(self.handle.aio_pwrite(buffer, self.offset))
        self.offset += len(self.chunk)
        files.advance(len(self.chunk))
        self.chunk = bytearray()

    def wait(self, left):
        while len(self.under_way) > left:
            cookie = self.under_way.popleft()
            while not self.handle.aio_command_completed(cookie):
                self.handle.poll(-1)

    def finish(self):
        self.send()
        self.wait(0)
        self.handle.flush()


def write_batch(place, items):
    import nbd
    copies = []
    try:
        pipe = Pipe(connection(place), items[0].offset)
        for item in items:
            if files.stopping():
                break
            digest, size = files.new_hash(), 0
            try:
                for chunk in files.content(item):
                    digest.update(chunk)
                    size += len(chunk)
                    pipe.add(chunk)
            except OSError:  # its source; what was read of it counts
                pass
            pipe.add(bytes(item.size - size))
            pipe.pad()
            copies.append(files.Copy(item.name, item.offset, size, digest.digest()))
        pipe.finish()
    except nbd.Error as error:
        return copies, [f"{items[0].name} and what follows: {error.string}"]
    return copies, []


def read(handle, offset, length):
    """The bytes in chunks, several asked for at once."""
    import nbd
    asked, end = deque(), offset + length
    while asked or offset < end:
        while offset < end and len(asked) < IN_FLIGHT:
            count = min(files.CHUNK, end - offset)
            buffer = nbd.Buffer(count)
            asked.append((handle.aio_pread(buffer, offset), buffer))
            offset += count
        cookie, buffer = asked.popleft()
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)
        yield buffer.to_bytearray()


def verify_batch(place, copies):
    """Returns, in words, what differs. The batch is read as one run, and cut into its files on the way."""
    import nbd
    differs = []
    try:
        start = copies[0].offset
        chunks = read(connection(place), start, copies[-1].offset + copies[-1].size - start)
        chunk, at = memoryview(b""), start  # `chunk` lies at `at`
        for copy in copies:
            digest, position, end = files.new_hash(), copy.offset, copy.offset + copy.size
            while position < end and not files.stopping():
                while position >= at + len(chunk):
                    at += len(chunk)
                    chunk = memoryview(next(chunks))
                    files.advance(len(chunk))
                piece = chunk[position - at:end - at]
                digest.update(piece)
                position += len(piece)
            if not files.stopping() and digest.digest() != copy.digest:
                differs.append(f"{copy.name} at {copy.offset}: other bytes than were written")
    except nbd.Error as error:
        differs.append(f"{copies[0].name} and what follows: {error.string}")
    return differs


def place(items):
    """Gives each item its offset, and returns the batches; each begins on a whole MiB."""
    groups, offset = files.batches(items, BATCH, 4000), 0
    for group in groups:
        offset += -offset % files.MIB
        for item in group:
            item.offset = offset
            offset += item.size + -item.size % ALIGN
    return groups


class Direct:
    """The volume as bytes. What Mounted does with a file system, without one."""

    words = "files back to back in the volume, through libnbd"

    def __init__(self, uri, workers, say):
        self.uri, self.workers, self.say = uri, workers, say
        self.turn = 0
        self.doomed = []

    def target(self):
        return (self.uri, self.turn)

    def prepare(self):
        if reason := why_not():
            raise SetupError(reason)

    def write(self, items):
        return self.workers.each(write_batch, self.target(), place(items))

    def flush(self):
        connection(self.target()).flush()

    def dirty(self):
        return 0

    def reattach(self):
        self.turn += 1
        self.say("connected again, with connections that have seen nothing yet")
        return []

    def verify(self, copies):
        # Workers finish in any order; a batch is read as one run.
        ordered = sorted(copies, key=lambda copy: copy.offset)
        return self.workers.each(verify_batch, self.target(), files.batches(ordered, BATCH, 4000))

    def delete(self, copies):
        self.doomed = sorted(copies, key=lambda copy: copy.offset)

    def trim(self):
        """Each run of neighbouring files that are gone, in pieces."""
        import nbd
        total = 0
        runs = []
        for copy in self.doomed:
            end = copy.offset + copy.size + -copy.size % ALIGN
            if runs and copy.offset - runs[-1][1] < files.MIB:
                runs[-1][1] = end
            else:
                runs.append([copy.offset, end])
        try:
            handle = connection(self.target())
            for start, end in runs:
                for offset in range(start, end, TRIM):
                    handle.trim(min(TRIM, end - offset), offset)
                total += end - start
            handle.flush()
        except nbd.Error as error:
            raise RuntimeError(f"trim: {error.string}") from None
        return f"{total} bytes trimmed in {len(runs)} runs"

    def detach(self):
        for handle in _connections.values():
            handle.shutdown()
        _connections.clear()
        return []

    def hint(self):
        return f"the volume is served at {self.uri}"
