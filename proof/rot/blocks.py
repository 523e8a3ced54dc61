# SPDX-License-Identifier: Apache-2.0
"""Damage to blocks of data of a pool with checksums, under a worker and a disk that are reading them."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.zygote import Zygote
from fisk_core.engine import Engine
from fisk_core.errors import Corrupt, FiskError
from proof.core import ProofFailed
from proof.rot.judge import Judge
from proof.rot.specimen import SUMMED

BLOCK = 4096
BLOCKS = 320
NAME = "blocks"
_SCRUBBED = 0.02
_LARGE = 18  # blocks read at once: more than goes into one answer


@dataclass
class Place:
    """Where the data of a block lies."""

    path: Path
    offset: int


class Blocks:
    """A Fisk of whose blocks some are in frozen layers and some in the live one, served and writable."""

    def __init__(self, engine: Engine, judge: Judge, zygote: Zygote, folder: Path, chance: Random) -> None:
        self._engine, self._judge = engine, judge
        self._content = bytearray(BLOCK * BLOCKS)
        self._stack = ExitStack()
        engine.create(NAME, len(self._content), pool=SUMMED)
        self._fill(chance, 0, BLOCKS)
        engine.snapshot(NAME, f"{NAME}-first")
        self._fill(chance, BLOCKS // 4, BLOCKS // 2)
        engine.snapshot(NAME, f"{NAME}-second")
        self._fill(chance, BLOCKS // 2, BLOCKS)
        self._places = [self._place(block) for block in range(BLOCKS)]
        self._disk = self._stack.enter_context(engine.open_disk(f"{NAME}-second"))
        self._client = self._stack.enter_context(self._served(zygote, folder))

    def _fill(self, chance: Random, first: int, end: int) -> None:
        with self._engine.open_disk(NAME, writable=True) as disk:
            for block in range(first, end):
                data = chance.randbytes(BLOCK)
                disk.write(block * BLOCK, data)
                self._content[block * BLOCK : (block + 1) * BLOCK] = data

    def _place(self, block: int) -> Place:
        found = self._engine.route(NAME, block * BLOCK)
        return Place(Path(str(found.path)), block * BLOCK)

    @contextmanager
    def _served(self, zygote: Zygote, folder: Path) -> Iterator[NbdClient]:
        with self._engine.acquire(NAME, True) as lock:
            options = ServeOptions(unix=str(folder / "blocks"))
            pid, [uri] = zygote.spawn(self._engine.disk_spec(NAME, False), options, lock.fd)
        try:
            with NbdClient.connect(uri) as client:
                yield client
        finally:
            os.kill(pid, 15)
            zygote.wait(pid)

    def close(self) -> None:
        """End worker and disk."""
        self._stack.close()

    def trial(self, chance: Random) -> str:
        """Damage one block; reading it must fail, alone and among others; the others must be right."""
        block = chance.randrange(BLOCKS)
        place, counts = self._places[block], self._judge.tally.counts
        what, data = _damage(chance, self._data(block), self._data(chance.randrange(BLOCKS)))
        if data == self._data(block):
            return what
        live = block >= BLOCKS // 2
        label = f"block {block} of the {'live' if live else 'frozen'} layer: {what}"
        with _written(place, data):
            self._read(block, label, chance)
            if not live:
                try:
                    self._disk.read(block * BLOCK, BLOCK)
                    raise ProofFailed(f"{label}: a disk in process served it")
                except Corrupt as exc:
                    self._judge.named(exc, [place.path.name])
            if chance.random() < _SCRUBBED:
                self._scrub(label)
        if bytes(self._client.read(block * BLOCK, BLOCK)) != self._data(block):
            raise ProofFailed(f"{label}: not served as it was, after it was put right")
        counts["damaged blocks"] += 1
        counts[f"damaged blocks, {'live' if live else 'frozen'}"] += 1
        return label

    def _data(self, block: int) -> bytes:
        return bytes(self._content[block * BLOCK : (block + 1) * BLOCK])

    def _read(self, block: int, label: str, chance: Random) -> None:
        first = max(0, min(BLOCKS - _LARGE, block - chance.randrange(_LARGE)))
        within = chance.randrange(BLOCK - 600)
        for offset, length in (
            (block * BLOCK, BLOCK),
            (block * BLOCK + within, 1 + chance.randrange(500)),
            (first * BLOCK, _LARGE * BLOCK),
        ):
            try:
                self._client.read(offset, length)
            except FiskError:
                continue
            raise ProofFailed(f"{label}: a worker served {length} bytes at {offset}")
        other = (block + 1 + chance.randrange(BLOCKS - 1)) % BLOCKS
        self._judge.same(bytes(self._client.read(other * BLOCK, BLOCK)), self._data(other), "a block beside")

    def _scrub(self, label: str) -> None:
        if not any(each.kind == "data" for each in self._engine.scrub(NAME).problems):
            raise ProofFailed(f"{label}: scrub does not find it")
        self._judge.tally.counts["damaged blocks found by scrub"] += 1


def _damage(chance: Random, data: bytes, other: bytes) -> tuple[str, bytes]:
    act, at = chance.randrange(5), 512 * chance.randrange(BLOCK // 512)
    if act == 0:
        return "zeroed", bytes(BLOCK)
    if act == 1:
        return f"512 bytes at {at} zeroed", data[:at] + bytes(512) + data[at + 512 :]
    if act == 2:
        return "another block's data", other
    if act == 3:
        return f"torn at {at}", data[:at] + other[at:]
    position, bit = chance.randrange(BLOCK), chance.randrange(8)
    flipped = bytearray(data)
    flipped[position] ^= 1 << bit
    return f"bit {bit} of byte {position} flipped", bytes(flipped)


@contextmanager
def _written(place: Place, data: bytes) -> Iterator[None]:
    with place.path.open("r+b") as file:
        before = os.pread(file.fileno(), BLOCK, place.offset)
        try:
            os.pwrite(file.fileno(), data, place.offset)
            yield
        finally:
            os.pwrite(file.fileno(), before, place.offset)
