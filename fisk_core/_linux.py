# SPDX-License-Identifier: Apache-2.0
"""System calls of Linux that Python's ``os`` lacks: fallocate modes, reflink, cachestat.

Each raises OSError like ``os`` does, so callers map errors in one place.
"""

import ctypes
import errno
import fcntl
import os
import struct

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10

_FICLONERANGE = 0x4020940D
_BLKFLSBUF = 0x1261
_PR_SET_PDEATHSIG = 1
_SYS_CACHESTAT = 451  # the same number on every architecture; since Linux 6.5

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2); ``mode`` is an OR of the FALLOC_FL constants above, 0 allocates and extends."""
    while _libc.fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Make the range read as zeros and give its space back to the file system."""
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> None:
    """Make the range read as zeros, keeping its space allocated."""
    fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length)


def clone_range(source_fd: int, source_offset: int, length: int, fd: int, offset: int) -> None:
    """ioctl_ficlonerange(2): share extents of one file with another; length 0 means to the end."""
    fcntl.ioctl(fd, _FICLONERANGE, struct.pack("=qQQQ", source_fd, source_offset, length, offset))


def drop_cached(device: "str | os.PathLike[str]") -> None:
    """Have the kernel forget what it has cached of a block device, written back first; raises OSError."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _BLKFLSBUF)
    finally:
        os.close(fd)


_malloc_trim = getattr(_libc, "malloc_trim", None)  # glibc's; other C libraries give memory back unasked


def trim_memory() -> None:
    """Give freed memory back to the system: after something large was built and dropped."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def end_with_parent(parent: int, number: int) -> None:
    """Have the kernel send this process the signal ``number`` when its parent, process ``parent``, ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it had ended before
        os.kill(os.getpid(), number)


class _CachestatRange(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Cachestat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted")
    )


_range = _CachestatRange()
_stat = _Cachestat()
_range_ref, _stat_ref = ctypes.byref(_range), ctypes.byref(_stat)


def cached_pages(fd: int, offset: int, length: int) -> int:
    """Pages of the range that are in the page cache (cachestat(2)).

    Not for several threads at once: the result structure is shared.  Raises OSError ENOSYS before Linux 6.5.
    """
    _range.offset, _range.length = offset, length
    if _libc.syscall(_SYS_CACHESTAT, fd, _range_ref, _stat_ref, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(_stat.cache)


def resident_pages(fd: int) -> int:
    """Pages of the whole file that are in the page cache, for any thread; raises OSError like the other."""
    whole, stat = _CachestatRange(0, 0), _Cachestat()  # length 0: to the end
    if _libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(whole), ctypes.byref(stat), 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(stat.cache)


_MACHINE = os.uname().machine
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}.get(_MACHINE)
_IOPRIO_PROCESS, _IOPRIO_SHIFT = 1, 13
IOPRIO_NONE, IOPRIO_IDLE = 0, 3


def set_io_priority(thread: int, kind: int) -> None:
    """ioprio_set(2): the class of I/O of one thread, IOPRIO_NONE being the usual one."""
    if _IOPRIO_SET is None:
        raise OSError(errno.ENOSYS, f"ioprio_set is not known on {_MACHINE}")
    if _libc.syscall(_IOPRIO_SET, _IOPRIO_PROCESS, thread, kind << _IOPRIO_SHIFT) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
