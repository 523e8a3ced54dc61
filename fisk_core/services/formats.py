# SPDX-License-Identifier: Apache-2.0
"""What kind of image a file is, and whether it may be opened at all.

Three gates, each before the next tool touches the file:

1. ``detect`` and ``check_header`` read bytes only (oslo.utils' inspectors and what they leave out);
2. ``check_with_qemu`` lets QEMU read the header, under limits, with no second file within reach;
3. ``check_integrity`` lets it read all tables: QEMU reads zeros where a file was cut off, we refuse it.

An image is refused that lies about its format, refers to another file of the host, is encrypted, too large
for a Fisk, cut off, or contradicts itself.  Raw bytes are never refused: nothing interprets them.
"""

import logging
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from oslo_utils.imageutils import format_inspector

from fisk_core.errors import ImageRefused, InvalidValue, PoolError
from fisk_core.files import named
from fisk_core.model import MAX_SIZE
from fisk_core.services import qemu

# The inspectors log what they dislike; our errors say the same, in one line.
logging.getLogger(format_inspector.__name__).setLevel(logging.CRITICAL)

HEAD = 2 << 20
"""Bytes from which every format is recognised."""
RAW = "raw"

_RAW_NAMES = frozenset({"raw", "iso", "gpt", "ami", "ari", "aki"})
_DRIVERS = {
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vhd": "vpc",
    "vpc": "vpc",
    "vhdx": "vhdx",
    "vdi": "vdi",
    "qed": "qed",
}
NAMES = tuple(sorted(_RAW_NAMES | set(_DRIVERS)))
"""Formats that can be imported; ``luks`` is recognised only to be refused."""

_RECOGNISED = ("qcow2", "vmdk", "vhd", "vhdx", "vdi", "qed", "luks")
_CHUNK = 1 << 20
_INSPECTED = 16 << 20  # bytes an inspector gets of the beginning; the tables they look for are near it
_TAIL = 64 << 10
_SECTOR = 512
_MAY_BE_CUT = frozenset({"vmdk", "vdi"})  # QEMU itself notices it in the others

_QCOW2_CRYPT = struct.Struct(">32xI")
_QED_FEATURES = struct.Struct("<16xQ")
_QED_NEED_CHECK = 2
_VMDK_CAPACITY = struct.Struct("<12xQ")
_VHD_FIXED = 2
_VHD_TYPE = struct.Struct(">60xI")


def canonical(name: str) -> str:
    """Give ``"raw"`` or QEMU's driver for a format as users call it; raises InvalidValue."""
    name = name.lower()
    if name in _RAW_NAMES:
        return RAW
    if name not in _DRIVERS:
        raise InvalidValue(f"'{name}' is not a format that can be imported ({', '.join(NAMES)})")
    return _DRIVERS[name]


def detect(head: bytes | bytearray) -> str:
    """Give what the first HEAD bytes (or all) of an image look like: ``"raw"``, a QEMU driver, or ``"luks"``.

    Raises ImageRefused when they look like several formats at once, as some attacks do.
    """
    # A file may end within its header, but what is stored of it does not: zeros fill the last sector.
    stored = bytes(head).ljust(_SECTOR, b"\0") if len(head) < _SECTOR else head
    found = [
        name
        for name in _RECOGNISED
        if _matches(name, head) or (stored is not head and _matches(name, stored))
    ]
    if len(found) > 1:
        raise ImageRefused(f"the image looks like several formats at once: {', '.join(found)}")
    return _DRIVERS.get(found[0], found[0]) if found else RAW


def _matches(name: str, head: bytes | bytearray) -> bool:
    inspector = _inspector(name)
    try:
        inspector.eat_chunk(head)
        inspector.finish()
        return bool(inspector.format_match)
    except Exception:
        # Whatever a parser of somebody else's stumbles over in hostile bytes, it has not recognised them.
        return False


def _inspector(name: str) -> Any:
    kind = format_inspector.get_inspector(name)
    assert kind is not None  # a name of ours that the library does not know
    return kind()


def choose(head: bytes | bytearray, declared: str | None, tail: bytes = b"") -> str:
    """Give the driver (or ``"raw"``) for an image that begins and ends with these bytes.

    ``declared`` is what the user says; a file that is something else is refused.  A fixed VHD is raw data
    before a trailer, which any guest can write to its disk: so it is one only when the user says so.
    """
    found = detect(head)
    wanted = canonical(declared) if declared else None
    if found == "luks":
        if wanted == RAW:
            return RAW  # ciphertext is data like any other to whoever asks for it
        raise ImageRefused("the image is encrypted (LUKS); declare it raw to store the ciphertext")
    if wanted == "vpc" and found == RAW and _is_fixed_vhd(tail):
        return "vpc"
    if wanted not in (None, found):
        raise ImageRefused(f"the image was declared {declared}, but it is {_user_name(found)}")
    return found


def _user_name(driver: str) -> str:
    return "vhd" if driver == "vpc" else driver


def _is_fixed_vhd(tail: bytes) -> bool:
    footer = tail[-512:]
    return footer.startswith(b"conectix") and _VHD_TYPE.unpack_from(footer)[0] == _VHD_FIXED


def examine(fd: int, declared: str | None) -> str:
    """Recognise the open file ``fd`` and pass it through the first gate; gives driver or ``"raw"``.

    Raises ImageRefused, InvalidValue.
    """
    size = _size(fd)
    head = _pread(fd, HEAD, 0)
    driver = choose(head, declared, _pread(fd, 512, max(0, size - 512)))
    if driver != RAW:
        check_header(fd, driver, size)
    return driver


def _pread(fd: int, length: int, offset: int) -> bytes:
    data = b""
    with named("read", "the image"):
        while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
            data += more
    return data


def _size(fd: int) -> int:
    with named("read", "the image"):
        return os.lseek(fd, 0, os.SEEK_END)


def check_header(fd: int, driver: str, size: int) -> None:
    """Refuse, by its bytes alone, what no tool should open."""
    head = _pread(fd, 512, 0)
    if driver == "qcow2" and len(head) >= 36 and _QCOW2_CRYPT.unpack_from(head)[0]:
        raise ImageRefused("the image is encrypted")
    if driver == "qed":
        _check_qed(head)
    elif driver != "vpc" or not _is_fixed_vhd(_pread(fd, 512, max(0, size - 512))):
        _check_safety(_inspector(_user_name(driver)), _parts(fd, size), driver)
    if driver == "vmdk" and not _VMDK_CAPACITY.unpack_from(head)[0]:
        # Without a capacity of its own QEMU takes the descriptor's word for which files make up the disk.
        raise ImageRefused("the vmdk image is only a description of other files")


def _check_qed(head: bytes) -> None:
    """oslo.utils knows no check for QED and bans it; what could refer to another file is one bit."""
    if len(head) < 512 or _QED_FEATURES.unpack_from(head)[0] & ~_QED_NEED_CHECK:
        raise ImageRefused("the qed image has a backing file or unknown features")


def _parts(fd: int, size: int) -> Iterator[bytes]:
    """Give the beginning of a file in chunks, and its end."""
    offset = 0
    while offset < min(size, _INSPECTED) and (chunk := _pread(fd, _CHUNK, offset)):
        yield chunk
        offset += len(chunk)
    # Some headers are completed by a trailer; what lies between is not looked at.
    if size > offset:
        start = max(offset, size - _TAIL)
        yield _pread(fd, size - start, start)


def _check_safety(inspector: Any, parts: Iterable[bytes], driver: str) -> None:
    try:
        for part in parts:
            inspector.eat_chunk(part)
        inspector.finish()
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as exc:
        reasons = ", ".join(f"{name}: {reason}" for name, reason in exc.failures.items())
        raise ImageRefused(f"the {driver} image is not safe to open ({reasons})") from exc
    except PoolError:  # the file could not be read
        raise
    except Exception as exc:
        # As in _matches: a file on which the check itself fails has not passed it.
        raise ImageRefused(f"the {driver} image is damaged: {exc}") from exc


def check_with_qemu(fd: int, driver: str) -> int:
    """The second gate; gives the size of the disk in bytes."""
    info = qemu.image_info(fd, driver)
    data = info.get("format-specific", {}).get("data", {})
    if info.get("backing-filename") or info.get("full-backing-filename"):
        raise ImageRefused(f"the {driver} image has a backing file")
    if data.get("data-file"):
        raise ImageRefused(f"the {driver} image has an external data file")
    if info.get("encrypted"):
        raise ImageRefused(f"the {driver} image is encrypted")
    if any(extent.get("filename") != info.get("filename") for extent in data.get("extents", [])):
        raise ImageRefused(f"the {driver} image has extents in other files")
    if info.get("format") != driver or data.get("corrupt"):
        raise ImageRefused(f"the {driver} image is marked as damaged")
    return _checked_size(info.get("virtual-size"), driver)


def _checked_size(size: object, driver: str) -> int:
    if not isinstance(size, int) or size <= 0:
        raise ImageRefused(f"the {driver} image has no size")
    if size > MAX_SIZE:
        raise ImageRefused(f"the {driver} image claims {size} bytes, a Fisk has at most {MAX_SIZE}")
    return size


def check_integrity(fd: int, driver: str) -> None:
    """The third gate."""
    qemu.check_image(fd, driver)
    if driver in _MAY_BE_CUT:
        size, end = _size(fd), qemu.last_data_byte(fd, driver)
        if end > size:
            raise ImageRefused(f"the {driver} image is cut off: it has {size} of at least {end} bytes")
