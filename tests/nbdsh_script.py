# Run inside nbdsh by interop_test.py: `h` is connected, `nbd` is the module, `base` is 4 MiB to play in.
import errno

K = 1 << 10
HOLE_AND_ZERO, DATA = 3, 0


def refused(what, *arguments, code):
    try:
        what(*arguments)
    except nbd.Error as error:
        assert error.errnum == code, f"{what.__name__}{arguments}: errno {error.errnum}, expected {code}"
        return
    raise AssertionError(f"{what.__name__}{arguments} was not refused")


def extents(offset, length):
    out = []
    h.block_status(length, offset, lambda context, at, entries, error: out.extend(entries) or 0)
    return list(zip(out[0::2], out[1::2]))


h.set_strict_mode(0)
size = h.get_size()
assert size == 1 << 30 and h.can_fua() and h.can_trim() and h.can_fast_zero() and h.can_df()

# FUA on each command that writes.
h.pwrite(b"a" * (256 * K), base, nbd.CMD_FLAG_FUA)
assert h.pread(256 * K, base) == b"a" * (256 * K)
h.zero(64 * K, base + 64 * K, nbd.CMD_FLAG_FUA)
h.trim(64 * K, base + 192 * K, nbd.CMD_FLAG_FUA)
assert h.pread(256 * K, base) == b"a" * (64 * K) + b"\0" * (64 * K) + b"a" * (64 * K) + b"\0" * (64 * K)
assert extents(base, 128 * K)[:2] == [(64 * K, DATA), (64 * K, HOLE_AND_ZERO)], extents(base, 128 * K)

# Zeroes that keep their place, and zeroes that must be quick.
h.pwrite(b"b" * (128 * K), base + 512 * K)
h.zero(64 * K, base + 512 * K, nbd.CMD_FLAG_NO_HOLE)
h.zero(4 * K, base + 600 * K, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(64 * K, base + 512 * K) == b"\0" * (64 * K)
assert h.pread(8 * K, base + 600 * K) == b"\0" * (4 * K) + b"b" * (4 * K)
h.flush()

# Every alignment around a cluster's edges.
for offset, length in ((1, 1), (511, 2), (4095, 2), (64 * K - 1, 2), (64 * K - 513, 65 * K), (3, 130 * K)):
    data = bytes((offset + i) % 251 for i in range(length))
    h.pwrite(data, base + K * K + offset)
    assert h.pread(length, base + K * K + offset) == data, (offset, length)
    assert h.pread(length, base + K * K + offset, nbd.CMD_FLAG_DF) == data, (offset, length)

# The ends of the volume.
h.pwrite(b"end", size - 3)
assert h.pread(3, size - 3) == b"end"
h.cache(64 * K, base)
refused(h.pread, 512, size, code=errno.EINVAL)
refused(h.pread, 2, size - 1, code=errno.EINVAL)
refused(h.pwrite, b"xx", size - 1, code=errno.ENOSPC)
refused(h.zero, 2, size - 1, code=errno.ENOSPC)
refused(h.trim, 2, size - 1, code=errno.EINVAL)
refused(h.pread, 512, 1 << 62, code=errno.EINVAL)
refused(h.pwrite, b"x", base, 1 << 9, code=errno.EINVAL)
# None of which costs the connection.
assert h.pread(3, size - 3) == b"end"
h.zero(3, size - 3)
