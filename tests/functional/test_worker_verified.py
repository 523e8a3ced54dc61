# SPDX-License-Identifier: Apache-2.0
"""A worker of a pool with checksums: what does not match is an error for the client, and said once."""

import errno
import os
from pathlib import Path

import pytest

from fisk_core.errors import FiskError
from fisk_core.pools import Kind, create_pool
from tests.disks import USUAL, make_spec
from tests.servers import Served

BLOCK = 4096
SIZE = 4 << 20


@pytest.fixture
def pool(tmp_path):
    return create_pool("file", "pool", {"path": str(tmp_path / "pool"), "checksum": "crc32"})


@pytest.fixture
def served(pool, tmp_path):
    with Served(make_spec(pool, SIZE, USUAL), tmp_path) as running:
        yield running


def flip(pool, layer, block):
    with pool.open_device(Kind.LAYER, layer, writable=True) as device:
        data = bytearray(1)
        device.preadv([data], block * BLOCK)
        device.pwritev([bytes([data[0] ^ 1])], block * BLOCK)


def refused(client, offset, length):
    with pytest.raises(FiskError) as caught:
        client.read(offset, length)
    return caught.value.errno == errno.EIO or "does not match" in str(caught.value)


def test_damage_under_a_worker_is_refused_counted_and_named(pool, served, capfd):
    content = os.urandom(64 * BLOCK)
    served.stop()
    served.start()  # so that what it says is captured
    with served.connect() as client:
        client.write(0, content)
        client.flush()
        assert client.read(0, len(content)) == content
        flip(pool, served.spec.map_id, 9)
        for offset, length in (
            (9 * BLOCK, BLOCK),
            (9 * BLOCK + 5, 9),
            (8 * BLOCK, 3 * BLOCK),
            (0, 64 * BLOCK),
        ):
            assert refused(client, offset, length)
        with pytest.raises(FiskError):
            client.write(9 * BLOCK + 100, b"part of it")
        assert client.read(0, 9 * BLOCK) == content[: 9 * BLOCK]
        client.write(9 * BLOCK, content[9 * BLOCK : 10 * BLOCK])
        assert client.read(0, len(content)) == content
    assert served.control("metrics")["metrics"]["corrupt"] == 5
    served.stop()
    lines = [line for line in capfd.readouterr().err.splitlines() if "does not match its checksum" in line]
    assert any(f"Fisk test: block 9 of layer {served.spec.map_id}" in line for line in lines)
    assert len(lines) == len({line.split("; a request")[0] for line in lines}), "each once"


def test_a_killed_worker_leaves_nothing_that_looks_like_damage(pool, served, tmp_path):
    """Overwritten in place and never flushed: data and checksum may be of different times."""
    served.stop()
    served.spec = type(served.spec)(**{**_fields(served.spec), "journal": str(tmp_path / "j"), "epoch": 1})
    served.start()
    with served.connect() as client:
        client.write(0, b"a" * 8 * BLOCK)
        client.flush()
        client.write(BLOCK, b"b" * BLOCK)
        client.write(20 * BLOCK, b"c" * 2 * BLOCK)
        served.kill()
    flip(pool, served.spec.map_id, 1)
    flip(pool, served.spec.map_id, 21)
    served.start()
    with served.connect() as client:
        assert client.read(0, 2 * BLOCK)[:BLOCK] == b"a" * BLOCK
        assert client.read(20 * BLOCK, 2 * BLOCK)[:BLOCK] == b"c" * BLOCK
        client.write(30 * BLOCK, b"d" * 300 * BLOCK)  # large enough to be written as it arrives
        client.trim(40 * BLOCK, 10 * BLOCK)
        client.zero(60 * BLOCK, BLOCK, no_hole=True)
        client.flush()
        assert client.read(39 * BLOCK, 12 * BLOCK) == b"d" * BLOCK + bytes(10 * BLOCK) + b"d" * BLOCK
    flip(pool, served.spec.map_id, 300)
    flip(pool, served.spec.map_id, 45)  # nobody's
    with served.connect() as client:
        assert refused(client, 300 * BLOCK, BLOCK)
        assert client.read(60 * BLOCK, BLOCK) == bytes(BLOCK)
        assert client.read(45 * BLOCK, BLOCK) == bytes(BLOCK)


def _fields(spec):
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def test_a_worker_does_not_start_without_the_checksums(pool, tmp_path):
    served = Served(make_spec(pool, SIZE, USUAL), tmp_path)
    path = pool.locate(Kind.SUMS, served.spec.map_id)
    assert isinstance(path, Path)
    path.unlink()
    with pytest.raises(FiskError, match="are missing"):
        served.start()
