# SPDX-License-Identifier: Apache-2.0
"""Limits are told when something is made, not when it is written to."""

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import LimitExceeded
from fisk_core.model import MAX_SIZE
from fisk_core.pools import create_pool
from tests.filesystems import SMALLEST, mounted


def test_no_fisk_larger_than_the_files_of_its_pool(tmp_path):
    with mounted("ext4", 600 << 20, tmp_path) as mount, Engine.open(tmp_path / "home") as engine:
        engine.create_pool("small", "file", {"path": str(mount / "pool")})
        with pytest.raises(LimitExceeded, match=r"files end at 16\.0 TiB"):
            engine.create("much", 20 << 40, pool="small")
        fisk = engine.create("less", 15 << 40, pool="small")
        with pytest.raises(LimitExceeded):
            engine.resize("less", 20 << 40)
        with pytest.raises(LimitExceeded):
            engine.clone("less", "more", size=20 << 40)
        with engine.open_disk("less", writable=True) as disk:
            disk.write(fisk.size - 4096, b"x" * 4096)
            assert disk.read(fisk.size - 4096, 4096) == b"x" * 4096


def test_64_tib_where_the_file_system_can(tmp_path):
    with mounted("xfs", SMALLEST["xfs"], tmp_path) as mount, Engine.open(tmp_path / "home") as engine:
        engine.create_pool("large", "file", {"path": str(mount / "pool")})
        engine.create("huge", MAX_SIZE, pool="large")
        with engine.open_disk("huge", writable=True) as disk:
            disk.write(MAX_SIZE - 4096, b"x" * 4096)
            disk.trim(0, MAX_SIZE - 4096)
            disk.flush()
        with engine.open_disk("huge") as disk:
            assert disk.read(MAX_SIZE - 4096, 4096) == b"x" * 4096
        assert engine.usage("huge").referenced == 4096


def test_many_blobs_at_once_are_whole(tmp_path):
    pool = create_pool("file", "p", {"path": str(tmp_path / "pool")})
    names = [f"fisks/{n:08x}-0000-4000-8000-000000000000" for n in range(450)]
    pool.put_blobs({name: name.encode() for name in names})
    assert sorted(pool.list_blobs("fisks")) == names
    assert pool.get_blob(names[449]) == names[449].encode()
