# SPDX-License-Identifier: Apache-2.0
"""Block devices of the kernel's own NBD client: made, found again, changed and removed.

Nothing about them is remembered anywhere: each carries a name of ours (``backend`` in sysfs), which nobody
else uses, and the kernel keeps it as long as the device exists.  They are made by netlink and not by the
older ioctls, so no process has to stay for one to exist.

A device has one connection, on purpose.  With several, the kernel takes a request that got no answer in time
for lost, and makes it again by another connection, though the worker may only be slow or limited; the first
may be done long after the second, over newer data.  With one connection and no time limit it waits as long
as that connection is there.  A request is made again only after the connection was replaced.
"""

import errno
import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fisk_core.access import loops, netlink, openers
from fisk_core.access.netlink import U32, U64, Family
from fisk_core.dataplane import protocol as p
from fisk_core.errors import InUse, MissingTool, NotFound, PoolError, from_oserror

FAMILY, GROUP = "nbd", "nbd_mc_group"
CONNECT, DISCONNECT, RECONFIGURE, LINK_DEAD = 1, 2, 3, 4
INDEX, SIZE, BLOCK_SIZE, TIMEOUT, SERVER_FLAGS, SOCKETS, PATIENCE, BACKEND = 1, 2, 3, 4, 5, 7, 8, 10
_ITEM, _FD = 1, 1

LOOK_SECONDS = 5.0
"""after so long a request without an answer is made again, if its connection was replaced meanwhile"""
_LOOK_BY_DEFAULT = 30.0
_BUSY_SECONDS = 1.0
"""For those that only look at a new device, as udev does."""
_READ_ONLY_FLAGS = p.TFLAG_HAS_FLAGS | p.TFLAG_READ_ONLY | p.TFLAG_ROTATIONAL | p.TFLAG_CAN_MULTI_CONN
_FIRST_KERNEL = (5, 14)
_TOO_OLD = "the kernel's module nbd cannot name its devices; Linux 5.14 is the first that can"
_SYSFS = Path("/sys/block")
_MODULE = Path("/sys/module/nbd")


def lacking() -> str | None:
    """Say what this host lacks for such devices; loads nothing."""
    if os.geteuid() != 0:
        return "making a block device needs root"
    if not _MODULE.exists():
        if not shutil.which("modprobe"):
            return "the kernel module nbd is not loaded, and there is no modprobe (Debian: kmod)"
        if subprocess.run(["modprobe", "--dry-run", "--quiet", "nbd"], capture_output=True).returncode:
            return "this kernel has no module nbd"
        return None if _kernel() >= _FIRST_KERNEL else _TOO_OLD
    try:
        with Family(FAMILY) as family:
            if 0 < family.most_attributes < BACKEND:  # 0: it does not say
                return _TOO_OLD
    except NotFound as exc:
        return str(exc)
    return None


def _kernel() -> tuple[int, ...]:
    """Give the first two numbers of the running kernel's version."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def load() -> None:
    """Have the kernel's NBD client loaded; raises MissingTool, PoolError."""
    # Asked again once it is there: a module too old would make devices that nobody finds.
    for _ in range(2):
        if sentence := lacking():
            raise MissingTool(f"a device of the kernel's NBD client: {sentence}")
        if not _MODULE.exists():
            done = subprocess.run(["modprobe", "nbd"], capture_output=True, text=True)
            if done.returncode:
                raise PoolError(f"modprobe nbd: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Shape:
    """What the kernel is told of a device: bytes, bytes of a logical block, NBD transmission flags."""

    size: int
    sector_size: int
    flags: int

    @classmethod
    def of(cls, size: int, sector_size: int, flags: int, *, read_only: bool) -> Self:
        """Round ``size`` down to whole blocks.  Of a read-only device the kernel refuses even to flush: it
        is not told that it could."""
        if read_only:
            flags = flags & _READ_ONLY_FLAGS | p.TFLAG_READ_ONLY
        return cls(size - size % sector_size, sector_size, flags)


def connect_message(name: str, shape: Shape, sock: int, patience: float) -> list[bytes]:
    """Give the attributes that make a device over the connected socket with descriptor ``sock``.

    Requests wait ``patience`` seconds for a connection before they fail, when there is none.
    """
    return [
        netlink.attribute(SIZE, U64.pack(shape.size)),
        netlink.attribute(BLOCK_SIZE, U64.pack(shape.sector_size)),
        netlink.attribute(TIMEOUT, U64.pack(0)),
        netlink.attribute(SERVER_FLAGS, U64.pack(shape.flags)),
        netlink.attribute(PATIENCE, U64.pack(int(patience))),
        _named(name),
        _sockets(sock),
    ]


def change_message(index: int, name: str, size: int, sock: int | None = None) -> list[bytes]:
    """Give the attributes that change a device: its size, and a connection in place of one that is dead."""
    parts = [netlink.attribute(INDEX, U32.pack(index)), _named(name), netlink.attribute(SIZE, U64.pack(size))]
    return parts if sock is None else [*parts, _sockets(sock)]


def _named(name: str) -> bytes:
    return netlink.attribute(BACKEND, name.encode() + b"\0")


def _sockets(sock: int) -> bytes:
    return netlink.nested(SOCKETS, netlink.nested(_ITEM, netlink.attribute(_FD, U32.pack(sock))))


@dataclass(frozen=True, slots=True)
class NbdDevice:
    """``/dev/nbd<index>``, as long as it carries our name."""

    index: int
    name: str

    @classmethod
    def every(cls, name: str) -> list[Self]:
        """Give the devices that carry ``name``: one, unless something went wrong."""
        found = []
        for backend in _SYSFS.glob("nbd*/backend"):
            with suppress(OSError):  # gone meanwhile
                if backend.read_text().rstrip("\n") == name:
                    found.append(cls(int(backend.parent.name.removeprefix("nbd")), name))
        return sorted(found, key=lambda each: each.index)

    @classmethod
    def make(cls, name: str, shape: Shape, sock: int, patience: float) -> Self:
        """Make a device over a connected socket; raises PoolError."""
        try:
            with Family(FAMILY) as family:
                answer = family.ask(CONNECT, *connect_message(name, shape, sock, patience))
        except OSError as exc:
            raise from_oserror(exc, "make an NBD device") from exc
        made = cls(U32.unpack(answer[INDEX])[0], name)
        made._look_every(LOOK_SECONDS)
        return made

    @property
    def path(self) -> Path:
        return Path("/dev") / f"nbd{self.index}"

    @property
    def _directory(self) -> Path:
        return _SYSFS / self.path.name

    @property
    def sector_size(self) -> int:
        return int((self._directory / "queue" / "logical_block_size").read_text())

    def _look_every(self, seconds: float) -> None:
        """Say after how long the kernel looks at a request without an answer (the limit itself is none)."""
        with suppress(OSError):  # where sysfs cannot be written, it is what it was: seldom, but it looks
            (self._directory / "queue" / "io_timeout").write_text(f"{int(seconds * 1000)}\n")

    def change(self, size: int, sock: int | None = None) -> None:
        """Set size and, where one is dead, connection; raises NotFound when the device is gone, PoolError."""
        try:
            size -= size % self.sector_size
            with Family(FAMILY) as family:
                family.ask(RECONFIGURE, *change_message(self.index, self.name, size, sock))
        except OSError as exc:
            if self not in self.every(self.name):
                raise NotFound(f"{self.path} is gone") from exc
            raise from_oserror(exc, f"change {self.path}") from exc

    def claim(self) -> int:
        """Give a descriptor that keeps mounts and the like away; raises InUse while anybody uses it."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            fd = self._open_alone()
            if fd is not None:
                if not self._is_open_elsewhere(fd):
                    return fd
                os.close(fd)
            if time.monotonic() > deadline:
                raise InUse(f"{self.path} is in use (mounted, or open in some process); free it, or force")
            time.sleep(0.05)

    def _open_alone(self) -> int | None:
        """Open it, so that nobody can mount it; None while somebody has done so."""
        try:
            return os.open(self.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                return None
            raise from_oserror(exc, f"open {self.path}") from exc

    def disconnect(self) -> None:
        """Take the device away, from those who use it too: they get errors, and it goes with the last."""
        self._look_every(_LOOK_BY_DEFAULT)  # whoever has the number next knows nothing of ours
        try:
            with Family(FAMILY) as family:
                family.ask(DISCONNECT, netlink.attribute(INDEX, U32.pack(self.index)))
        except OSError as exc:
            raise from_oserror(exc, f"disconnect {self.path}") from exc

    def _numbers(self) -> set[int]:
        """Give the device numbers of the device and its partitions."""
        found = set()
        for path in (self._directory / "dev", *self._directory.glob("nbd*/dev")):
            with suppress(OSError):
                major, _, minor = path.read_text().partition(":")
                found.add(os.makedev(int(major), int(minor)))
        return found

    def _is_open_elsewhere(self, claimed: int) -> bool:
        """Whether anybody has it open but for our descriptor ``claimed``, or a loop device is over it."""
        return bool(loops.devices_of(self.path)) or openers.has_others(self._numbers(), claimed)
