# SPDX-License-Identifier: Apache-2.0
"""On a completely full disk one can still look around and delete."""

import pytest

from fisk_core.catalog.reserve import Reserve
from fisk_core.engine import Engine
from fisk_core.errors import NoSpace
from tests.filesystems import SMALLEST, mounted


def fill(path):
    """Take the last byte of the file system."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 512):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_delete_on_a_full_disk(tmp_path):
    with mounted("ext4", SMALLEST["ext4"], tmp_path) as mount:
        with Engine.open(mount / "home") as engine:
            engine.create("a", 8 << 20)
            with engine.open_disk("a", writable=True) as disk:
                disk.write(0, b"a" * (4 << 20))
        fill(mount / "filler")
        with Engine.open(mount / "home") as engine:
            assert [fisk.name for fisk in engine.list()] == ["a"]
            engine.delete("a")
            engine.create("b", 8 << 20)
            with engine.open_disk("b", writable=True) as disk:
                disk.write(0, b"b" * (1 << 20))
        with Engine.open(mount / "home") as engine:
            assert (mount / "home" / "catalog.sqlite.reserve").exists(), "it came back"
            with engine.open_disk("b") as disk:
                assert disk.read(0, 1 << 20) == b"b" * (1 << 20)


def test_an_open_engine_whose_disk_fills_up_says_so_and_can_delete(tmp_path):
    with mounted("ext4", SMALLEST["ext4"], tmp_path) as mount, Engine.open(mount / "home") as engine:
        engine.create("a", 8 << 20)
        engine.settle()
        fill(mount / "filler")
        with pytest.raises(NoSpace):
            create_many(engine, 10_000)
        engine.delete("a")


def create_many(engine, count):
    for number in range(count):
        engine.create(f"n{number}", 8 << 20, attributes={"k": "v" * 60_000})


def test_nothing_to_release(tmp_path):
    reserve = Reserve(str(tmp_path / "catalog"))
    assert not reserve.release()
    reserve.keep()
    assert reserve.release()
    assert not reserve.release()
