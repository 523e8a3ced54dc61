# SPDX-License-Identifier: Apache-2.0
"""Images that lie, refer to other files, are damaged or absurd: refused, and nothing is left behind."""

import io
import json
import os
import random
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import ImageRefused
from fisk_core.services import formats, qemu
from tests.engines import MIB, read
from tests.nbd_servers import need

SECRET = b"the host's secret\n" * 4096
SIZE = 4 * MIB


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(tmp_path / "home") as engine:
        yield engine


def qemu_img(*arguments: str | Path) -> None:
    need("qemu-img")
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


def make(folder: Path, driver: str, *options: str) -> Path:
    """An image with 1 MiB of data at its beginning and 64 KiB at its end."""
    source = folder / "source"
    data = random.Random(9).randbytes(MIB)
    source.write_bytes(data + bytes(SIZE - MIB - 65536) + data[:65536])
    image = folder / f"image.{driver}"
    qemu_img("convert", "-f", "raw", "-O", driver, *options, source, image)
    return image


def patch(image: Path, offset: int, data: bytes) -> Path:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return image


def secret(folder: Path) -> Path:
    path = folder / "secret"
    path.write_bytes(SECRET)
    return path


# The images: each function makes one in a folder


def backing_file(folder: Path) -> Path:
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", secret(folder), folder / "image", "1M")
    return folder / "image"


def backing_passwd(folder: Path) -> Path:
    qemu_img("create", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/passwd", folder / "image", "1M")
    return folder / "image"


def backing_json(folder: Path) -> Path:
    name = "json:" + json.dumps(
        {"driver": "raw", "file": {"driver": "file", "filename": str(secret(folder))}}
    )
    qemu_img("create", "-f", "qcow2", "-u", "-F", "raw", "-b", name, folder / "image", "1M")
    return folder / "image"


def data_file(folder: Path) -> Path:
    image, external = folder / "image", secret(folder)
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={external},data_file_raw=on", image, "64k")
    external.write_bytes(SECRET)  # creating it emptied it
    return image


def data_file_by_flag_alone(folder: Path) -> Path:
    return patch(make(folder, "qcow2"), 0x4F, b"\4")


def encrypted(folder: Path) -> Path:
    return patch(make(folder, "qcow2"), 32, struct.pack(">I", 2))


def luks(folder: Path) -> Path:
    image = folder / "image"
    image.write_bytes(b"LUKS\xba\xbe\0\1aes".ljust(MIB, b"\0"))
    return image


def vmdk_descriptor(folder: Path) -> Path:
    image = folder / "image"
    image.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="monolithicFlat"\nRW 128 FLAT "{secret(folder)}" 0\n'
        'ddb.adapterType = "ide"\n'
    )
    return image


def vmdk_split(folder: Path) -> Path:
    qemu_img("create", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", folder / "image.vmdk", "1M")
    return folder / "image.vmdk"


def _vmdk_descriptor_of(image: Path) -> str:
    return image.read_bytes()[512 : 512 + 20 * 512].rstrip(b"\0").decode()


def vmdk_foreign_extent(folder: Path) -> Path:
    """A sparse file whose own descriptor names a file by its path."""
    image = make(folder, "vmdk")
    text = _vmdk_descriptor_of(image).replace('"image.vmdk"', f'"{secret(folder)}"')
    return patch(image, 512, text.encode().ljust(20 * 512, b"\0"))


def vmdk_without_capacity(folder: Path) -> Path:
    """QEMU then believes the descriptor, here naming a file in the image's own directory."""
    image = make(folder, "vmdk")
    secret(folder)
    text = _vmdk_descriptor_of(image).replace('SPARSE "image.vmdk"', 'FLAT "secret" 0')
    patch(image, 512, text.encode().ljust(20 * 512, b"\0"))
    return patch(image, 12, bytes(8))


def vmdk_parent(folder: Path) -> Path:
    base = make(folder, "vmdk")
    image = folder / "child.vmdk"
    qemu_img("create", "-f", "vmdk", "-F", "vmdk", "-b", base, image)
    return image


def qed_backing(folder: Path) -> Path:
    qemu_img("create", "-f", "qed", "-F", "raw", "-b", secret(folder), folder / "image", "64k")
    return folder / "image"


def unknown_feature(folder: Path) -> Path:
    return patch(make(folder, "qcow2"), 0x48, b"\x80")


def marked_corrupt(folder: Path) -> Path:
    return patch(make(folder, "qcow2"), 0x4F, b"\2")


def bad_l1_table(folder: Path) -> Path:
    image = make(folder, "qcow2")
    (table,) = struct.unpack_from(">Q", image.read_bytes(), 40)
    return patch(image, table, b"\x80" + random.Random(2).randbytes(7))


def l1_table_outside(folder: Path) -> Path:
    return patch(make(folder, "qcow2"), 40, struct.pack(">Q", 1 << 40))


def bad_l2_table(folder: Path) -> Path:
    image = make(folder, "qcow2")
    content = image.read_bytes()
    (table,) = struct.unpack_from(">Q", content, 40)
    (entry,) = struct.unpack_from(">Q", content, table)
    return patch(image, entry & 0x00FFFFFFFFFFFE00, random.Random(3).randbytes(256))


def compressed_garbage(folder: Path) -> Path:
    source, image = folder / "text", folder / "image"
    source.write_text(random.Random(5).randbytes(MIB).hex())
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", source, image)
    assert image.stat().st_size < 1.5 * MIB
    return patch(image, MIB // 2, b"\xff" * 100_000)


def huge(folder: Path) -> Path:
    qemu_img("create", "-f", "qcow2", "-o", "cluster_size=2M", folder / "image", str((64 << 40) + (1 << 30)))
    return folder / "image"


def absurd(folder: Path) -> Path:
    return patch(make(folder, "qcow2"), 24, b"\xff" * 8)


def no_size(folder: Path) -> Path:
    return patch(make(folder, "qcow2"), 24, bytes(8))


def header_only(folder: Path) -> Path:
    image = folder / "image"
    image.write_bytes(make(folder, "qcow2").read_bytes()[:100])
    return image


def two_at_once(folder: Path) -> Path:
    """A qcow2 header and a VDI signature."""
    return patch(make(folder, "qcow2"), 0x40, struct.pack("<I", 0xBEDA107F))


def _cut(driver: str, share: float, *options: str) -> Callable[[Path], Path]:
    def cut(folder: Path) -> Path:
        image = make(folder, driver, *options)
        os.truncate(image, int(image.stat().st_size * share))
        return image

    return cut


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "backing file": (backing_file, "backing_file"),
    "backing file /etc/passwd": (backing_passwd, "backing_file"),
    "backing file in JSON": (backing_json, "backing_file"),
    "data file": (data_file, "data_file"),
    "data file, by flag": (data_file_by_flag_alone, "data_file"),
    "encrypted": (encrypted, "encrypted"),
    "luks": (luks, "LUKS"),
    "vmdk descriptor": (vmdk_descriptor, "not safe"),
    "vmdk split": (vmdk_split, "not safe"),
    "vmdk foreign extent": (vmdk_foreign_extent, "not safe"),
    "vmdk without capacity": (vmdk_without_capacity, "description of other files"),
    "vmdk parent": (vmdk_parent, "backing file|not safe"),
    "qed backing": (qed_backing, "backing file"),
    "unknown feature": (unknown_feature, "unknown_features"),
    "marked corrupt": (marked_corrupt, "damaged|corrupt"),
    "bad L1 table": (bad_l1_table, "damaged"),
    "L1 table outside": (l1_table_outside, "damaged|cannot open|not safe"),
    "bad L2 table": (bad_l2_table, "damaged"),
    "compressed garbage": (compressed_garbage, "cannot be read"),
    "huge": (huge, "at most"),
    "absurd size": (absurd, "cannot open|at most"),
    "no size": (no_size, "no size"),
    "header only": (header_only, "damaged|cannot open|not safe"),
    "two formats": (two_at_once, "several formats"),
    "cut qcow2": (_cut("qcow2", 0.5), "damaged"),
    "cut qcow2, compressed": (_cut("qcow2", 0.5, "-c"), "damaged"),
    "cut vmdk": (_cut("vmdk", 0.9), "cut off|damaged|cannot"),
    "cut vmdk stream": (_cut("vmdk", 0.9, "-o", "subformat=streamOptimized"), "not safe|damaged"),
    "cut vhd": (_cut("vpc", 0.7), "truncated|damaged|cannot"),
    "cut vhdx": (_cut("vhdx", 0.7), "truncated|damaged|cannot"),
    "cut vdi": (_cut("vdi", 0.7), "cut off"),
    "cut qed": (_cut("qed", 0.7), "damaged|cannot"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(engine: Engine, tmp_path: Path, name: str) -> None:
    maker, reason = REFUSED[name]
    folder = tmp_path / "images"
    folder.mkdir()
    image = maker(folder)
    begun = time.monotonic()
    for source in (image, io.BytesIO(image.read_bytes())):
        with pytest.raises(ImageRefused, match=reason) as caught:
            engine.import_image(source, "disk")
        assert str(caught.value).isprintable()
    assert time.monotonic() - begun < 20
    assert engine.list() == []
    pool = engine.home.pool("default")
    left = [path for path in pool.rglob("*") if path.is_file() and path.name != "pool.json"]
    assert left == []


@pytest.mark.parametrize(
    "maker",
    [backing_file, data_file, vmdk_descriptor, vmdk_foreign_extent, vmdk_without_capacity, qed_backing],
)
def test_refused_before_any_tool_runs(
    engine: Engine, tmp_path: Path, maker: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first gate alone must hold: a tool that opens the file may have opened the other one already."""
    image = maker(tmp_path)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ImageRefused):
        engine.import_image(image, "disk")


@pytest.mark.parametrize("maker", [backing_file, data_file, vmdk_without_capacity, vmdk_parent, qed_backing])
def test_qemu_alone_never_reaches_the_other_file(tmp_path: Path, maker: Callable[[Path], Path]) -> None:
    """The second gate holds by itself: what it tells QEMU to open has no way to the secret."""
    image = maker(tmp_path)
    need("strace")
    driver = {"vmdk_without_capacity": "vmdk", "vmdk_parent": "vmdk", "qed_backing": "qed"}
    with image.open("rb") as file:
        options = qemu.image_options(file.fileno(), driver.get(maker.__name__, "qcow2"))
        trace = tmp_path / "trace"
        subprocess.run(
            ["strace", "-f", "-e", "trace=openat", "-o", trace, "qemu-img", "info", options],
            pass_fds=[file.fileno()],
            capture_output=True,
        )
    opened = trace.read_text()
    other = "source" if maker is vmdk_parent else "secret"
    assert f'{other}"' not in "".join(line for line in opened.splitlines() if "= -1" not in line)


# Lies


LIES = [
    (real, declared)
    for real in ("raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi", "qed")
    for declared in ("raw", "iso", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "qed")
    if real not in (declared, {"vhd": "vpc", "iso": "raw"}.get(declared))
]


@pytest.mark.parametrize(("real", "declared"), LIES)
def test_a_declared_format_must_be_the_real_one(
    engine: Engine, tmp_path: Path, real: str, declared: str
) -> None:
    image = make(tmp_path, real)
    for source in (image, io.BytesIO(image.read_bytes())):
        with pytest.raises(ImageRefused, match="declared"):
            engine.import_image(source, "disk", format=declared)


def test_a_guest_that_writes_a_header_to_its_disk(engine: Engine, tmp_path: Path) -> None:
    """The classic attack: a raw disk that begins with a qcow2 header.  It is never opened as raw silently."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(backing_passwd(tmp_path).read_bytes().ljust(MIB, b"\0"))
    for declared in (None, "raw", "qcow2"):
        with pytest.raises(ImageRefused):
            engine.import_image(disk, "disk", format=declared)


def test_ciphertext_is_data_to_whoever_says_so(engine: Engine, tmp_path: Path) -> None:
    image = luks(tmp_path)
    engine.import_image(image, "disk", format="raw")
    assert read(engine, "disk", 0, image.stat().st_size) == image.read_bytes()


def test_a_large_sparse_image_is_no_bomb(engine: Engine, tmp_path: Path) -> None:
    """60 TiB of nothing take neither time nor space."""
    qemu_img("create", "-f", "qcow2", "-o", "cluster_size=2M", tmp_path / "image", str(60 << 40))
    begun = time.monotonic()
    fisk = engine.import_image(tmp_path / "image", "disk")
    assert fisk.size == 60 << 40
    assert engine.usage("disk").referenced == 0
    assert time.monotonic() - begun < 30


def test_an_image_others_may_write_cannot_be_exchanged_once_examined(engine: Engine, tmp_path: Path) -> None:
    """Its owner turns it into a reference to another file once it has been read for the first time."""
    image, evil = make(tmp_path, "qcow2"), data_file(tmp_path).read_bytes()
    source = (tmp_path / "source").read_bytes()
    image.chmod(0o666)
    length = image.stat().st_size
    steps = []

    def progress(done: int, total: int | None) -> None:
        steps.append(done)
        if done >= length:
            image.write_bytes(evil)

    engine.import_image(image, "disk", progress=progress)
    assert len(steps) > 1
    assert read(engine, "disk", 0, SIZE) == source
    with pytest.raises(ImageRefused):
        engine.import_image(image, "again")


# Noise


@pytest.mark.parametrize("driver", ["qcow2", "vmdk", "vpc", "vhdx", "vdi", "qed"])
def test_flipped_bytes_never_do_more_than_be_refused(engine: Engine, tmp_path: Path, driver: str) -> None:
    """Whatever a header says: a Fisk, or one clear refusal."""
    pristine = make(tmp_path, driver).read_bytes()
    chance = random.Random(driver)
    refused = 0
    for number in range(25):
        damaged = bytearray(pristine)
        for _ in range(chance.choice([1, 2, 8])):
            damaged[chance.randrange(chance.choice([128, 1024, len(damaged)]))] ^= 1 << chance.randrange(8)
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        try:
            engine.import_image(path, f"disk{number}")
        except ImageRefused:
            refused += 1
    # VHDX keeps its tables twice and its header far from the beginning, where it is never hit.
    assert refused or driver == "vhdx"


@pytest.mark.parametrize("seed", range(40))
def test_detection_survives_anything(seed: int) -> None:
    """Beginnings that look like something, then noise."""
    chance = random.Random(seed)
    magics = [
        b"QFI\xfb",
        b"KDMV",
        b"conectix",
        b"vhdxfile",
        b"QED\0",
        b"LUKS\xba\xbe",
        b"# Disk Descriptor",
        b"a" * 512,
    ]
    head = chance.choice(magics) + chance.randbytes(chance.choice([0, 100, 600, 40_000, MIB, formats.HEAD]))
    if chance.random() < 0.5:
        head += bytes(max(0, formats.HEAD - len(head)))
    for declared in (None, "raw", "qcow2", "vmdk", "vhd"):
        with suppress(ImageRefused):
            assert formats.choose(head, declared) in {"raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi", "qed"}
