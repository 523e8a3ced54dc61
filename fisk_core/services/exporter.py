# SPDX-License-Identifier: Apache-2.0
"""Download: a Fisk becomes a file in any format, or a stream of bytes.

A file is complete or not there: it is written beside its place under another name, made durable, and renamed.
Holes stay holes in files and are zeros in streams.  Formats other than raw are written by
``qemu-img convert`` from a worker that serves the Fisk.  The engine may be a daemon's: its workers are then
read over NBD, and the file is made here.
"""

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from fisk_core.errors import InvalidValue, from_oserror
from fisk_core.model import Fisk
from fisk_core.services import qemu
from fisk_core.services.filling import Meter
from fisk_core.services.importer import BYTES, SECTOR
from fisk_core.services.readers import Reader
from fisk_core.services.sources import CHUNK, open_path, read_up_to
from fisk_core.services.targets import flush, new_file, opened_stream, write_all, write_zeros

if TYPE_CHECKING:
    from fisk_core.protocol import Progress, Verbs


class Format(NamedTuple):
    """How qemu-img is told to write a format; ``compressed`` None: it has no compression."""

    driver: str
    options: tuple[str, ...] = ()
    compressed: tuple[str, ...] | None = None


# force_size: else QEMU rounds the disk up to whole cylinders, and it no longer compares equal.
_VHD = Format("vpc", ("force_size=on",))
FORMATS = {
    "raw": Format("raw"),
    "qcow2": Format("qcow2", (), ()),
    "vmdk": Format("vmdk", (), ("subformat=streamOptimized",)),
    "vhd": _VHD,
    "vpc": _VHD,
    "vhdx": Format("vhdx"),
    "vdi": Format("vdi"),
    "qed": Format("qed"),
}
"""Formats a Fisk can be downloaded in."""


def download(
    engine: "Verbs",
    fisk: Fisk,
    target: str | Path | IO[bytes],
    *,
    format: str = "raw",
    progress: "Progress | None" = None,
    compress: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a Fisk to ``target``: a path, ``"-"`` for standard output, or a binary file object.

    A frozen Fisk whose import recorded a length within its last sector gives exactly that many bytes of raw.
    Raises AlreadyExists (an existing file without ``overwrite``), InvalidValue, InUse, MissingTool, NoSpace,
    PoolError.
    """
    wanted = _format(format, compress)
    with opened_stream(target, overwrite) as stream:
        meter = Meter(progress, fisk.size)
        if stream is None:
            assert isinstance(target, (str, Path))
            with new_file(target, overwrite) as (fd, path):
                _to_file(engine, fisk, wanted, compress, fd, path, meter)
        elif wanted.driver == "raw":
            with engine.reading(fisk) as reader:
                _stream(reader, stream, _length(fisk, reader.size), meter)
        else:
            _convert_to_stream(engine, fisk, wanted, compress, stream, meter)


def write_file(
    engine: "Verbs",
    fisk: Fisk,
    fd: int,
    path: Path,
    *,
    format: str = "raw",
    compress: bool = False,
    progress: "Progress | None" = None,
) -> None:
    """Write a Fisk into an empty file that the caller has opened; ``path`` is how a program opens it too.

    Making it durable is left to the caller.  Raises like ``download``.
    """
    _to_file(engine, fisk, _format(format, compress), compress, fd, path, Meter(progress, fisk.size))


def _format(name: str, compress: bool) -> Format:
    wanted = FORMATS.get(name.lower())
    if wanted is None:
        raise InvalidValue(f"'{name}' is not a format to download ({', '.join(FORMATS)})")
    if compress and wanted.compressed is None:
        raise InvalidValue(f"the format {name} has no compression")
    return wanted


def _length(fisk: Fisk, size: int) -> int:
    """Give the bytes of a raw download.

    Only a frozen Fisk's recorded length counts, and only within its last sector: what was written since, or
    resized, has nothing to do with what was imported.
    """
    exact = fisk.attributes.get(BYTES, "")
    if fisk.frozen and exact.isdecimal() and size - SECTOR < int(exact) <= size:
        return int(exact)
    return size


def _to_file(
    engine: "Verbs", fisk: Fisk, wanted: Format, compress: bool, fd: int, path: Path, meter: Meter
) -> None:
    if wanted.driver != "raw":
        _convert(engine, fisk, wanted, compress, path, meter)
        return
    with engine.reading(fisk) as reader:
        length = _length(fisk, reader.size)
        reader.copy_into(fd, meter)
        try:
            os.ftruncate(fd, length)
        except OSError as exc:
            raise from_oserror(exc, "set the size of the file") from exc
        meter.at(reader.size)


def _stream(reader: Reader, stream: IO[bytes], length: int, meter: Meter) -> None:
    position = 0
    for offset, data in reader.parts():
        write_zeros(stream, offset - position)
        write_all(stream, data[: length - offset])
        position = offset + len(data)
        meter.at(position)
    write_zeros(stream, length - position)
    flush(stream)
    meter.at(reader.size)


# Other formats


def _convert(engine: "Verbs", fisk: Fisk, wanted: Format, compress: bool, path: Path, meter: Meter) -> None:
    options = wanted.options + ((wanted.compressed or ()) if compress else ())
    # The subformat of vmdk is compressed by itself; qemu-img refuses -c beside it.
    flag = compress and not wanted.compressed
    with engine.served(fisk) as uri:
        qemu.convert(uri, path, wanted.driver, options, flag, lambda share: meter.at(int(share * fisk.size)))
    meter.at(fisk.size)


def _convert_to_stream(
    engine: "Verbs", fisk: Fisk, wanted: Format, compress: bool, stream: IO[bytes], meter: Meter
) -> None:
    """No other format can be written from start to end: it is made in the pool's staging area first."""
    with engine.staging_file(fisk.pool) as path:
        _convert(engine, fisk, wanted, compress, path, meter)
        buffer = memoryview(bytearray(CHUNK))
        with open_path(path) as made:
            while count := read_up_to(made, buffer):
                write_all(stream, buffer[:count])
    flush(stream)
