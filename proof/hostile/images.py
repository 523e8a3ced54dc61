# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.hostile.images ORDER``: damaged and malicious images, handed to import.

Real images of every format have bytes of their tables and headers replaced, are cut off, or name files and
servers of this host in every place a format has for a name.  Each must become a Fisk or be refused: in time,
without anything of the host in it, and with nothing left behind.
"""

import io
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fisk_core.engine import Engine
from fisk_core.errors import FiskError
from fisk_core.model import Fisk
from proof.hostile.canary import Canaries
from proof.hostile.inside import Order, end_in_order
from proof.hostile.judge import Broken, require
from proof.hostile.target import resident

SIZE = 1 << 20
LONGEST_SECONDS = 60.0
"""of one import; generous, for the machine may be busy"""
_READ = 4 << 20  # of what was imported: the rest is beyond the data of our images
_NUMBERS = (
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    1 << 63,
    (1 << 64) - 1,
)
_KINDS: dict[str, tuple[str, ...]] = {
    "qcow2": (), "qcow2 compressed": ("-c",), "qcow2 old": ("-o", "compat=0.10"),
    "qcow2 extended": ("-o", "extended_l2=on,cluster_size=16k"), "vmdk": (),
    "vmdk stream": ("-o", "subformat=streamOptimized"), "vpc": (), "vpc fixed": ("-o", "subformat=fixed"),
    "vhdx": (), "vdi": (), "qed": (), "parallels": (), "luks": (),
}  # fmt: skip


@dataclass
class Report:
    """What came of it."""

    images: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    grown: int = 0
    """bytes of memory"""
    slowest: float = 0.0
    """seconds of one import"""
    broken: str = ""
    input: str = ""


def pristine(folder: Path) -> dict[str, bytes]:
    """Make one image of each kind, with some data in it."""
    source, made = folder / "source", {}
    data = random.Random(1).randbytes(64 << 10)
    source.write_bytes(data + bytes(SIZE - len(data) - 4096) + data[:4096])
    for kind, options in _KINDS.items():
        driver, image = kind.split()[0], folder / "image"
        if driver == "luks":
            made[kind] = b"LUKS\xba\xbe\0\1aes".ljust(64 << 10, b"\0")
            continue
        _qemu_img("convert", "-f", "raw", "-O", driver, *options, source, image)
        made[kind] = image.read_bytes()
        image.unlink()
    pattern = folder / "pattern"
    pattern.write_bytes(b"bomb" * (8 << 20))
    _qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", pattern, folder / "bomb")
    made["qcow2 bomb"] = (folder / "bomb").read_bytes()
    pattern.unlink()
    return made


def _qemu_img(*words: object) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


class Attack:
    """Makes images and imports them."""

    def __init__(self, engine: Engine, folder: Path, seed: int) -> None:
        self._engine, self._folder, self._chance = engine, folder, random.Random(seed)
        self._pristine = pristine(folder)
        self.canaries = Canaries(folder)
        self._names = self.canaries.names()
        self._pool = engine.home.pool("default")
        self.report = Report()
        self.counts: Counter[str] = Counter()
        self.last = b""
        self._before = 0
        self._ways: tuple[Callable[[], bytes], ...] = (
            self._flipped, self._flipped, self._numbered, self._numbered, self._cut, self._backed,
            self._external, self._described, self._renamed, self._spliced, self._grown,
        )  # fmt: skip

    def run(self, go_on: Callable[[int], bool]) -> None:
        """Raises Broken."""
        for kind, image in self._pristine.items():
            self._import(image, kind)
        self._before = resident()
        while go_on(self.report.images):
            way = self._chance.choice(self._ways)
            self.counts[way.__name__.strip("_")] += 1
            self._import(way(), None)
            self.report.grown = max(self.report.grown, resident() - self._before)

    # Making them

    def _any(self) -> bytearray:
        return bytearray(self._chance.choice(list(self._pristine.values())))

    def _flipped(self) -> bytes:
        """Some bits of the header, or of anything."""
        image = self._any()
        for _ in range(self._chance.choice((1, 1, 2, 4, 32))):
            at = self._chance.randrange(
                min(len(image), self._chance.choice((128, 1024, 1 << 17, len(image))))
            )
            image[at] ^= 1 << self._chance.randrange(8)
        return bytes(image)

    def _numbered(self) -> bytes:
        """Fields of the header or of tables that say something absurd."""
        image = self._any()
        for _ in range(self._chance.choice((1, 1, 2, 3))):
            width, order = self._chance.choice((2, 4, 8)), self._chance.choice("<>")
            at = self._chance.randrange(self._chance.choice((128, 1024, 1 << 17))) // 4 * 4
            number = self._chance.choice(_NUMBERS) & ((1 << 8 * width) - 1)
            image[at : at + width] = struct.pack(order + {2: "H", 4: "I", 8: "Q"}[width], number)
        return bytes(image)

    def _cut(self) -> bytes:
        image = self._any()
        return bytes(image[: self._chance.randrange(len(image))])

    def _grown(self) -> bytes:
        """Something behind the end, or before the beginning."""
        image, more = self._any(), self._chance.randbytes(self._chance.choice((1, 512, 4096)))
        return bytes(image + more) if self._chance.random() < 0.7 else bytes(more + image)

    def _spliced(self) -> bytes:
        """The beginning of one, and the rest of another."""
        one, two = self._any(), self._any()
        at = self._chance.choice((4, 64, 512, 4096, 65536))
        return bytes(one[:at] + two[at:])

    def _backed(self) -> bytes:
        """A qcow2 or QED image whose header names a backing file."""
        name = self._chance.choice(self._names).encode()
        if self._chance.random() < 0.2:
            image = bytearray(self._pristine["qed"])
            image[16:24] = struct.pack("<Q", self._chance.choice((1, 5, 4)))
            image[56:64] = struct.pack("<II", 512, len(name))
            image[512 : 512 + len(name)] = name
            return bytes(image)
        image = bytearray(self._pristine[self._chance.choice(("qcow2", "qcow2 old", "qcow2 extended"))])
        at = self._chance.choice((1024, 60000, len(image)))
        image[at : at + len(name)] = name
        image[8:20] = struct.pack(">QI", at, len(name) if self._chance.random() < 0.9 else 0)
        return bytes(image)

    def _external(self) -> bytes:
        """A qcow2 image whose data is said to be in another file."""
        image = bytearray(self._pristine["qcow2"])
        name = self._chance.choice(self._names).encode()
        if self._chance.random() < 0.8:
            image[0x4F] |= 4
        kind = self._chance.choice((0x44415441, 0x44415441, 0xE2792ACA))
        extension = struct.pack(">II", kind, len(name)) + name.ljust(-(-len(name) // 8) * 8, b"\0")
        image[0x70 : 0x70 + len(extension) + 8] = extension + bytes(8)
        return bytes(image)

    def _described(self) -> bytes:
        """VMDK: the description names other files, in the image's header or alone."""
        name, kind = self._chance.choice(self._names), self._chance.choice(("FLAT", "SPARSE", "VMFS", "ZERO"))
        text = (
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID="
            f'{self._chance.choice(("ffffffff", "12345678"))}\ncreateType="monolithicFlat"\n'
            f'parentFileNameHint="{name}"\nRW 128 {kind} "{name}" 0\nddb.adapterType = "ide"\n'
        ).encode()
        if self._chance.random() < 0.3:
            return text
        image = bytearray(self._pristine["vmdk"])
        image[512 : 512 + 20 * 512] = text.ljust(20 * 512, b"\0")[: 20 * 512]
        if self._chance.random() < 0.5:
            image[12:20] = bytes(8)
        return bytes(image)

    def _renamed(self) -> bytes:
        """A name anywhere, and the fields for differencing disks and parents of VHD, VHDX and VDI set."""
        kind = self._chance.choice(("vpc", "vhdx", "vdi", "vmdk"))
        image = bytearray(self._pristine[kind])
        name = self._chance.choice(self._names)
        raw = name.encode("utf-16-le" if self._chance.random() < 0.5 else "utf-8")
        at = self._chance.randrange(0, min(len(image), 1 << 17), 8)
        image[at : at + len(raw)] = raw
        if kind == "vpc":
            image[60:64] = struct.pack(">I", 4)
        elif kind == "vdi":
            image[0x4C:0x50] = struct.pack("<I", self._chance.choice((3, 4)))
            image[0x198:0x1C8] = self._chance.randbytes(48)
        return bytes(image)

    # Importing them

    def _import(self, image: bytes, kind: str | None) -> None:
        self.last = image
        path = self._folder / "hostile"
        path.write_bytes(image)
        as_stream = self._chance.random() < 0.2
        declared = self._chance.choice((None, None, None, "qcow2", "vmdk", "vhd", "vhdx", "vdi", "qed"))
        began, fisk = time.monotonic(), None
        try:
            source = io.BytesIO(image) if as_stream else path
            fisk = self._engine.import_image(source, "x", format=None if kind else declared)
            self.counts["imported"] += 1
        except FiskError as exc:
            require(str(exc).isprintable(), f"an unprintable message: {str(exc)!r}")
            self.counts[type(exc).__name__] += 1
        taken = time.monotonic() - began
        self.report.slowest = max(self.report.slowest, taken)
        require(taken < LONGEST_SECONDS, f"an import of {taken:.0f} s")
        require(not self.canaries.touched(), "a file or a server of the host was reached")
        if fisk is not None:
            self._look(fisk, image)
        self._clean()
        self.report.images += 1

    def _look(self, fisk: Fisk, image: bytes) -> None:
        """What was imported has nothing of the host in it, unless the image brought it along."""
        with self._engine.open_disk(fisk.id) as disk:
            found = disk.read(0, min(disk.size, _READ))
        require(self.canaries.marker not in found or self.canaries.marker in image, "a secret was imported")
        self._engine.delete(fisk.id)
        self._engine.collect()

    def _clean(self) -> None:
        """Nothing is left: no Fisk, no layer, no temporary file."""
        require(self._engine.list() == [], "a Fisk was left behind")
        left = [path for path in self._pool.rglob("*") if path.is_file() and path.name != "pool.json"]
        require(not left, f"left behind: {left[:3]}")


def run(order: Order) -> Report:
    """Do what the order says; what was broken is in the report."""
    home = Path(order.home)
    (folder := home / "images").mkdir()
    with Engine.open(home / "home") as engine:
        attack = Attack(engine, folder, order.seed)
        try:
            attack.run(order.clock())
        except Broken as exc:
            attack.report.broken = str(exc)
            attack.report.input = str(_kept(attack.last, order))
        finally:
            attack.canaries.close()
        attack.report.counts = dict(attack.counts)
    return attack.report


def _kept(image: bytes, order: Order) -> Path:
    """Keep an image that broke something, beside the seeds' reports."""
    path = Path(order.report).with_suffix(".image")
    path.write_bytes(image)
    return path


if __name__ == "__main__":
    end_in_order()
    order = Order(**json.loads(Path(sys.argv[1]).read_text()))
    os.environ["TMPDIR"] = order.home
    Path(order.report).write_text(json.dumps(asdict(run(order))))
