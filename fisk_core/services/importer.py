# SPDX-License-Identifier: Apache-2.0
"""Import: an image in any format becomes a Fisk, as raw blocks, once.

Nothing of an image is believed before ``formats`` has passed it.  Raw bytes are copied (or, where file and
pool share a file system that can, their extents are shared); other formats are read through qemu-nbd.  Holes
and blocks of zeros are never written.  Everything goes into a Building: until it is finished nobody sees
anything, and whatever goes wrong, an exception from the progress callback included, nothing is left behind.

The engine may be a daemon's: then the image is read here, and its blocks go to the daemon's host over NBD.
"""

import io
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from fisk_core.dataplane import protocol
from fisk_core.dataplane.client import NbdClient
from fisk_core.errors import AlreadyExists, ImageRefused, NotFound, PoolError, from_oserror
from fisk_core.files import named
from fisk_core.model import BLOCK_SIZE, MAX_SIZE, PAGE_SIZE, Fisk, Role
from fisk_core.pools.copying import copy_range
from fisk_core.services import formats, qemu
from fisk_core.services.filling import Filler, Meter
from fisk_core.services.sources import (
    CHUNK,
    Source,
    data_extents,
    may_change,
    open_path,
    opened,
    pieces,
    read_up_to,
)

if TYPE_CHECKING:
    from fisk_core.protocol import Building, Progress, Verbs

SECTOR = 512
COPY = 64 << 20
BYTES = "fisk:bytes"
"""Attribute of a frozen Fisk whose content ends within its last sector: the exact length."""
ORIGINAL = "fisk:original"
"""Attribute of an image: the id of the Fisk with the bytes it was imported from."""
IMAGE = "fisk:image"
"""Attribute of such a Fisk: the id of the image made from it."""
FORMAT = "fisk:format"
"""Attribute of such a Fisk: the format of these bytes."""
CLASS = "class"
"""Attribute of both: by what the image is for, a pool is chosen for the two of them."""


@dataclass(frozen=True, slots=True)
class _File:
    """The image as a file; ``original`` is a Fisk under construction to which its bytes were written."""

    fd: int
    length: int
    original: "Building | None" = None


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for."""

    name: str
    role: str
    frozen: bool
    pool: str | None
    attributes: Mapping[str, str]
    id: str | None
    block_size: int
    page_size: int
    keep_original: bool
    twin: Mapping[str, str] | None

    @property
    def original(self) -> str:
        return f"{self.name}.original"

    @property
    def keeps_file(self) -> bool:
        """Whether the file of an image that is not raw is kept too."""
        return self.keep_original or self.twin is not None


def import_image(
    engine: "Verbs",
    source: str | Path | IO[bytes],
    name: str,
    *,
    format: str | None = None,
    role: str = Role.IMAGE,
    frozen: bool = True,
    pool: str | None = None,
    keep_original: bool = False,
    size: int | None = None,
    progress: "Progress | None" = None,
    attributes: Mapping[str, str] | None = None,
    id: str | None = None,
    block_size: int = BLOCK_SIZE,
    page_size: int = PAGE_SIZE,
    twin: Mapping[str, str] | None = None,
) -> Fisk:
    """Make a Fisk called ``name`` from an image.

    ``source`` is a path, ``"-"`` for standard input, or a binary file object; ``format`` is what the image
    must be, by default what it is found to be.  ``size`` is how long a stream will be, for ``progress`` only.
    ``keep_original`` makes a second, frozen Fisk ``NAME.original`` of the very bytes of the image file;
    ``twin``, its attributes, makes it where the image itself does not hold them: of formats that are not raw.
    A size that is no multiple of 512 is padded with zeros; ``fisk:bytes`` of a frozen Fisk has the exact one.

    Raises ImageRefused, InvalidValue, NotFound, AlreadyExists, NoSpace, LimitExceeded, MissingTool,
    PoolError, and whatever ``progress`` raises.
    """
    order = Order(
        name, role, frozen, pool, dict(attributes or {}), id, block_size, page_size, keep_original, twin
    )
    _require_free(engine, order)
    with opened(source) as found:
        meter = Meter(progress, size)
        if found.fd is None:
            return _from_stream(engine, order, found, format, meter)
        return _from_file(engine, order, _File(found.fd, found.size), format, meter)


def _require_free(engine: "Verbs", order: Order) -> None:
    """Say before the work what would be found out after it."""
    for name in (order.name, order.original)[: 1 + order.keeps_file]:
        try:
            engine.get(name)
        except NotFound:
            continue
        raise AlreadyExists(f"there is a Fisk '{name}' already")


# From where


def _from_stream(engine: "Verbs", order: Order, source: Source, declared: str | None, meter: Meter) -> Fisk:
    """Any format but raw is spooled, and looked at again as a file."""
    assert source.stream is not None
    head = bytearray(formats.HEAD)
    del head[read_up_to(source.stream, memoryview(head)) :]
    # A fixed VHD is known by its end alone.
    if formats.canonical(declared or formats.RAW) == "vpc" or formats.choose(head, declared) != formats.RAW:
        return _spooled(engine, order, source.stream, head, declared, meter)
    with _begin(engine, order, MAX_SIZE) as building:
        done = Filler(building.disk, meter).from_stream(source.stream, head)
        return _finish_raw(engine, order, building, done)


def _spooled(
    engine: "Verbs", order: Order, stream: IO[bytes], head: bytearray, declared: str | None, meter: Meter
) -> Fisk:
    """Import a copy of the stream; its bytes, where they are kept, are stored while it arrives."""
    with engine.staging_file(order.pool) as path, open_path(path, "r+b") as spool, ExitStack() as stack:
        original = stack.enter_context(_begin_original(engine, order)) if order.keeps_file else None
        filler = Filler(original.disk, meter) if original else None
        if filler is None:
            length = _spool(stream, head, spool, meter)
        elif filler.can_share:
            length = _spool(stream, head, spool, meter)
            filler.from_file(spool.fileno(), length)  # copies nothing
        else:
            _write(spool, head)
            length = filler.from_stream(cast(IO[bytes], _Copied(stream, spool)), head)
        meter.step(length)
        return _from_file(engine, order, _File(spool.fileno(), length, original), declared, meter)


class _Copied(io.RawIOBase):
    """A stream of which all that is read goes to a file too."""

    def __init__(self, stream: IO[bytes], file: IO[bytes]) -> None:
        self._stream, self._file = stream, file

    def read(self, size: int = -1, /) -> bytes | None:
        data = self._stream.read(size)
        if data:
            _write(self._file, data)
        return data


def _spool(stream: IO[bytes], head: bytearray, spool: IO[bytes], meter: Meter) -> int:
    """Copy the stream, of which ``head`` has been read, to the file; gives its length."""
    buffer = memoryview(bytearray(CHUNK))
    part, done = memoryview(head), 0
    while part:
        _write(spool, part)
        done = spool.tell()
        meter.at(done)
        part = buffer[: read_up_to(stream, buffer)]
    return done


def _write(spool: IO[bytes], data: bytes | bytearray | memoryview) -> None:
    part = memoryview(data)
    while part:
        try:
            part = part[spool.write(part) :]
        except OSError as exc:
            raise from_oserror(exc, "write the image to the pool's staging area") from exc


def _from_file(engine: "Verbs", order: Order, file: _File, declared: str | None, meter: Meter) -> Fisk:
    driver = formats.examine(file.fd, declared)
    if driver != formats.RAW:
        if may_change(file.fd):
            return _from_copy(engine, order, file, declared, meter)
        return _convert(engine, order, file, driver, meter)
    meter.expect(file.length)
    with _begin(engine, order, _padded(file.length)) as building:
        Filler(building.disk, meter).from_file(file.fd, file.length)
        return _finish_raw(engine, order, building, file.length)


def _from_copy(engine: "Verbs", order: Order, file: _File, declared: str | None, meter: Meter) -> Fisk:
    """Import a private copy of an image somebody else could turn into another one after it was examined."""
    with engine.staging_file(order.pool) as path, open_path(path, "r+b") as copy:
        for offset, count in pieces(data_extents(file.fd, file.length), SECTOR, COPY, file.length):
            if copy_range(file.fd, offset, copy.fileno(), offset, count) < count:
                raise PoolError("the image file became shorter while it was read")
            meter.at(offset + count)
        with named("set the size of", path):
            os.ftruncate(copy.fileno(), file.length)
        meter.step(file.length)
        return _from_file(engine, order, _File(copy.fileno(), file.length, file.original), declared, meter)


# Raw images


def _begin(engine: "Verbs", order: Order, size: int) -> "Building":
    if not size:
        raise ImageRefused("the image is empty")
    return engine.begin_build(
        order.name,
        size=size,
        pool=order.pool,
        role=order.role,
        attributes=order.attributes,
        block_size=order.block_size,
        page_size=order.page_size,
        id=order.id,
    )


def _padded(length: int) -> int:
    return -(-length // SECTOR) * SECTOR


def _exact(length: int) -> dict[str, str]:
    return {BYTES: str(length)} if length % SECTOR else {}


def _finish_raw(engine: "Verbs", order: Order, building: "Building", length: int) -> Fisk:
    """Show the Fisk.  The original of a raw image has the same blocks: a snapshot of it."""
    if not length:
        raise ImageRefused("the image is empty")
    labels = _exact(length) if order.frozen else {}
    if not order.keep_original:
        return building.finish(size=_padded(length), frozen=order.frozen, attributes=labels)
    original = str(uuid.uuid4())
    image = building.finish(
        size=_padded(length), frozen=order.frozen, attributes={**labels, ORIGINAL: original}
    )
    try:
        links = {**links_of(image.id, formats.RAW, order.attributes), **_exact(length)}
        engine.snapshot(image.id, order.original, role=Role.ORIGINAL, attributes=links, id=original)
    except BaseException:
        engine.delete(image.id)
        raise
    return image


def links_of(image: str, driver: str, attributes: Mapping[str, str]) -> dict[str, str]:
    """Give the attributes of the original of an image: what it belongs to, and the class the image has."""
    return {IMAGE: image, FORMAT: driver, **_class_of(attributes)}


def _class_of(attributes: Mapping[str, str]) -> dict[str, str]:
    return {CLASS: attributes[CLASS]} if CLASS in attributes else {}


# Other formats


def _convert(engine: "Verbs", order: Order, file: _File, driver: str, meter: Meter) -> Fisk:
    """Read an image through QEMU, after the second and third gate; first its file is stored, if kept."""
    size = _padded(formats.check_with_qemu(file.fd, driver))
    formats.check_integrity(file.fd, driver)
    original = file.original
    with ExitStack() as stack:
        building = stack.enter_context(_begin(engine, order, size))
        if order.keeps_file and original is None:
            meter.expect(file.length + size)
            original = stack.enter_context(_begin_original(engine, order))
            Filler(original.disk, meter).from_file(file.fd, file.length)
            meter.step(file.length)
        meter.expect(size)
        with _flushed_meanwhile(original):
            _fill(building, size, file.fd, driver, meter)
        if original is None:
            return building.finish(size=size, frozen=order.frozen)
        return _show_both(engine, order, building, size, original, file.length, driver)


def _fill(building: "Building", size: int, fd: int, driver: str, meter: Meter) -> None:
    with (
        qemu.serve_image(fd, driver) as path,
        NbdClient.connect(path, contexts=(protocol.CONTEXT_ALLOCATION,)) as client,
    ):
        if client.size > size:
            raise ImageRefused(f"the {driver} image has two sizes, {size} and {client.size} bytes")
        Filler(building.disk, meter).from_nbd(client)


@contextmanager
def _flushed_meanwhile(building: "Building | None") -> Iterator[None]:
    """Make what was written to a Fisk under construction durable while something else is done."""
    if building is None:
        yield
        return
    with ThreadPoolExecutor(1, "fisk-import") as side:
        flushed = side.submit(building.disk.flush)
        yield
        flushed.result()


def _begin_original(engine: "Verbs", order: Order) -> "Building":
    labels = {**(order.twin or {}), **_class_of(order.attributes)}
    return engine.begin_build(
        order.original, size=MAX_SIZE, pool=order.pool, role=Role.ORIGINAL, attributes=labels
    )


def _show_both(
    engine: "Verbs",
    order: Order,
    image: "Building",
    size: int,
    original: "Building",
    length: int,
    driver: str,
) -> Fisk:
    """Show the Fisk with the bytes of the image file, then the image."""
    links = {**links_of(image.fisk_id, driver, order.attributes), **_exact(length)}
    kept = original.finish(size=_padded(length), frozen=True, attributes=links)
    try:
        return image.finish(size=size, frozen=order.frozen, attributes={ORIGINAL: kept.id})
    except BaseException:
        engine.delete(kept.id)
        raise
