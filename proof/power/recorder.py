# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.power.recorder DIRECTORY MOUNTPOINT RECORDS``: a file system that notes what is done.

Everything is handed on to files below DIRECTORY, one request after the other, so that there is one order; a
request is noted after it succeeded and before it is answered.  It stands between *all* processes (engine,
workers, SQLite) and the operating system, and none of them is changed for it.

A file that is removed, or replaced, while it is open is renamed by libfuse, to keep it.  That is noted as
what it was for those who asked: a removal, or nothing before the rename that replaces it.

What is in the directory ``run`` of a home is handed on and not noted: locks, sockets and journals are nothing
after a power loss.  Those who look at what is left put worse things there than a recording could.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator
from typing import IO, Any

import mfusepy

from fisk_core import _linux
from proof.power.records import NOTES, ROOT, Name, Note, Record, Sync, Truncate, Write, Zero, save

_HIDDEN = ".fuse_hidden"
_OUTSIDE = re.compile(r"/[^/]+/run(/.*)?")
_UNNOTED = -1
"""the number of every file outside what is recorded"""
_NOTES = "/" + NOTES
_KEPT = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_ino")
_TIMES = ("st_atime", "st_mtime", "st_ctime")


class Recorder(mfusepy.Operations):  # type: ignore[misc]  # the library has no annotations
    """The file system; ``fh`` is the descriptor of the file below."""

    use_ns = True
    # Of three, the library does not say which open file is truncated.
    flag_nopath = flag_nullpath_ok = mfusepy.fuse_version_major == 2

    def __init__(self, directory: str, output: IO[bytes]) -> None:
        self._below, self._output = directory, output
        self._numbers = {"/": ROOT}
        self._count = ROOT
        self._open: dict[int, int] = {}
        """descriptor → number of its file"""
        self._removed: str | None = None
        """the path of what libfuse hid, when nothing followed yet"""

    # Notes

    def _note(self, record: Record) -> None:
        self._note_removal()
        if not isinstance(record, Name | Note) and record.file == _UNNOTED:
            return
        save(self._output, record)

    def _note_removal(self) -> None:
        if self._removed is not None:
            path, self._removed = self._removed, None
            self._named(path, None)

    def _entry(self, path: str, number: int | None) -> tuple[int, str, int | None]:
        folder, name = os.path.split(path)
        return self._numbers[folder], name, number

    def _named(self, path: str, number: int | None, *, directory: bool = False) -> None:
        """A name came or went."""
        if _OUTSIDE.fullmatch(path) is None:
            self._note(Name((self._entry(path, number),), directory))

    def _made(self, path: str, *, directory: bool = False) -> int:
        if _OUTSIDE.fullmatch(path):
            self._numbers[path] = _UNNOTED
            return _UNNOTED
        self._count += 1
        self._numbers[path] = self._count
        self._named(path, self._count, directory=directory)
        return self._count

    def _path(self, path: str) -> str:
        return self._below + path

    # Names

    def create(self, path: str, mode: int) -> int:
        fd = os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        self._open[fd] = self._made(path)
        return fd

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._path(path), mode)
        self._made(path, directory=True)
        return 0

    def mknod(self, path: str, mode: int, dev: int) -> int:
        os.mknod(self._path(path), mode, dev)
        self._made(path)
        return 0

    def link(self, target: str, source: str) -> int:
        os.link(self._path(source), self._path(target))
        number = self._numbers[target] = self._numbers[source]
        self._named(target, number)
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._path(path))
        if self._numbers.pop(path, None) is not None:  # else it was hidden, so noted before
            self._named(path, None)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._path(path))
        del self._numbers[path]
        self._named(path, None)
        return 0

    def rename(self, old: str, new: str) -> int:
        if os.path.isdir(self._path(old)):
            raise OSError(errno.EXDEV, old)  # nobody does, and what is below would have to be numbered again
        os.rename(self._path(old), self._path(new))
        number = self._numbers.pop(old)
        if os.path.basename(new).startswith(_HIDDEN):
            self._note_removal()
            self._removed = old
            return 0
        if self._removed == new:
            self._removed = None
        self._numbers[new] = number
        if number != _UNNOTED:
            self._note(Name((self._entry(old, None), self._entry(new, number))))
        return 0

    # Files

    def open(self, path: str, flags: int) -> int:
        fd = os.open(self._path(path), flags & os.O_ACCMODE | os.O_CLOEXEC)
        self._open[fd] = self._numbers[path]
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
            self._note(Truncate(self._open[fd], 0))
        return fd

    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str | None, data: bytes, offset: int, fh: int) -> int:
        number = self._open[fh]
        if number == self._numbers.get(_NOTES):
            self._note(Note(data.decode()))
            return len(data)
        done = os.pwrite(fh, data, offset)
        self._note(Write(number, offset, data[:done]))
        return done

    def truncate(self, path: str | None, length: int, fh: int | None = None) -> int:
        if fh is None:
            assert path is not None
            os.truncate(self._path(path), length)
            self._note(Truncate(self._numbers[path], length))
        else:
            os.ftruncate(fh, length)
            self._note(Truncate(self._open[fh], length))
        return 0

    def fallocate(self, path: str | None, mode: int, offset: int, length: int, fh: int) -> int:
        _linux.fallocate(fh, mode, offset, length)
        grows = not mode & _linux.FALLOC_FL_KEEP_SIZE
        if mode & (_linux.FALLOC_FL_PUNCH_HOLE | _linux.FALLOC_FL_ZERO_RANGE):
            self._note(Zero(self._open[fh], offset, length, grows))
        elif grows and offset + length == os.fstat(fh).st_size:
            self._note(Truncate(self._open[fh], offset + length))
        return 0

    def fsync(self, path: str | None, datasync: int, fh: int) -> int:
        self._note(Sync(self._open[fh]))
        return 0

    def release(self, path: str | None, fh: int) -> int:
        del self._open[fh]
        os.close(fh)
        return 0

    # Directories; the descriptor of one is its number

    def opendir(self, path: str) -> int:
        return self._numbers[path]

    def releasedir(self, path: str | None, fh: int) -> int:
        return 0

    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> int:
        self._note(Sync(fh))
        return 0

    def readdir(self, path: str | None, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        path = path or next(each for each, number in self._numbers.items() if number == fh)
        for name in (".", "..", *os.listdir(self._path(path))):
            if not name.startswith(_HIDDEN):
                found = os.lstat(f"{self._path(path)}/{name}")
                yield name, {"st_mode": found.st_mode, "st_ino": found.st_ino}, 0

    # Looking

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self._path(path)) if path else os.fstat(fh or 0)
        attributes: dict[str, Any] = {name: getattr(found, name) for name in _KEPT}
        return attributes | {name: getattr(found, name + "_ns") for name in _TIMES}

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._path(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}

    def chmod(self, path: str | None, mode: int) -> int:
        os.chmod(self._path(path or ""), mode)
        return 0

    def chown(self, path: str | None, uid: int, gid: int) -> int:
        return 0

    def utimens(self, path: str | None, times: tuple[int, int] | None = None) -> int:
        return 0

    def destroy(self, path: str) -> None:
        self._note_removal()
        self._output.close()


def main() -> None:
    directory, mountpoint, records = sys.argv[1:]
    with open(records, "wb", buffering=1 << 20) as output:
        options: dict[str, Any] = {"big_writes": True} if mfusepy.fuse_version_major == 2 else {}
        mfusepy.FUSE(
            Recorder(directory, output),
            mountpoint,
            foreground=True,
            nothreads=True,
            fsname="fisk-recorder",
            use_ino=True,
            kernel_cache=True,
            default_permissions=True,
            **options,
        )


if __name__ == "__main__":
    main()
