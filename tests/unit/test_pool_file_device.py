# SPDX-License-Identifier: Apache-2.0
"""The file pool where media end: full, without fallocate, sharing extents, other people's files in it."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from fisk_core import _linux, errors
from fisk_core.pools import Device, Kind, Pool, create_pool
from fisk_core.pools._filesystem import type_of
from fisk_core.pools.copying import copy_range
from tests.filesystems import MIB, SMALLEST, mounted


def make_pool(directory: Path, **options: object) -> Pool:
    return create_pool("file", "test", {"path": str(directory / "pool"), **options})


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 16 MiB."""
    with mounted("ext4", SMALLEST["ext4"], tmp_path) as directory:
        yield directory


def fill(device: Device, piece: int = 256 << 10) -> int:
    """Append until the medium is full; gives the number of whole pieces that went in."""
    written = 0
    while True:
        try:
            device.pwritev([bytes([written % 251]) * piece], written * piece)
        except errors.NoSpace:
            return written
        written += 1


def test_full_medium_refuses_writes_and_keeps_what_it_acknowledged(small: Path) -> None:
    pool, layer_id = make_pool(small, prealloc=False), str(uuid4())
    with pool.create_device(Kind.LAYER, layer_id) as layer:
        pieces = fill(layer)
        layer.flush()
        assert 4 << 20 < pieces << 18 < 16 << 20
        with pytest.raises(errors.NoSpace, match=layer_id):
            layer.pwritev([b"x" * MIB], 64 * MIB)
        buffer = bytearray(1 << 18)
        for piece in range(pieces):
            layer.preadv([buffer], piece << 18)
            assert buffer == bytes([piece % 251]) * (1 << 18)


def test_full_medium_refuses_blobs_logs_and_leaves_the_old_ones(small: Path) -> None:
    pool, layer_id, log_id = make_pool(small), str(uuid4()), str(uuid4())
    blob = f"maps/{layer_id}"
    pool.put_blob(blob, [b"old"])
    pool.replace_log(log_id, [b"old log"])
    with pool.create_device(Kind.LAYER, layer_id) as layer:
        fill(layer, 4096)
    with pytest.raises(errors.NoSpace, match=blob):
        pool.put_blob(blob, [b"x" * MIB] * 4)
    with pytest.raises(errors.NoSpace, match=log_id):
        pool.replace_log(log_id, [b"x" * MIB] * 4)
    assert pool.get_blob(blob) == b"old"
    assert list(pool.list_blobs()) == [blob]
    with pool.open_device(Kind.LOG, log_id, writable=False) as log:
        assert log.size == 7


def test_space_comes_back_and_writes_go_on(small: Path) -> None:
    pool, layer_id = make_pool(small), str(uuid4())
    with pool.create_device(Kind.LAYER, layer_id) as layer:
        fill(layer)
        layer.discard(0, 2 * MIB)
        layer.pwritev([b"y" * MIB], 0)
        layer.flush()
        fill(layer)
        pool.delete_device(Kind.LAYER, layer_id)
    assert pool.space().free > 8 * MIB
    pool.put_blob(f"maps/{layer_id}", [b"x" * MIB] * 4)


def test_preallocation_beyond_the_medium_says_so(small: Path) -> None:
    pool = make_pool(small)
    with pool.create_device(Kind.LAYER, str(uuid4())) as layer:
        assert layer.preallocate(0, MIB)
        with pytest.raises(errors.NoSpace):
            layer.preallocate(0, 64 * MIB)
        with pytest.raises(errors.NoSpace):
            layer.write_zeroes(0, 64 * MIB)


def test_preallocation_can_be_switched_off(small: Path) -> None:
    pool = make_pool(small, prealloc=False)
    assert not pool.capabilities.preallocate
    with pool.create_device(Kind.LAYER, str(uuid4())) as layer:
        assert not layer.preallocate(0, MIB)
        assert layer.allocated() == 0


def test_full_medium_still_answers_what_it_can_do(small: Path) -> None:
    pool = make_pool(small)
    with pool.create_device(Kind.LAYER, str(uuid4())) as layer:
        fill(layer, 4096)
    assert not pool.capabilities.reflink
    assert pool.space().free < MIB


def test_what_the_file_system_lacks_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    real = _linux.fallocate

    def counting(fd: int, mode: int, offset: int, length: int) -> None:
        modes.append(mode)
        real(fd, mode, offset, length)

    with mounted("ramfs", 0, tmp_path) as directory:
        pool = make_pool(directory)
        monkeypatch.setattr(_linux, "fallocate", counting)
        for _ in range(3):
            with pool.create_device(Kind.LAYER, str(uuid4())) as layer:
                layer.pwritev([b"x" * 3 * MIB], 0)
                layer.discard(100, 2 * MIB)
                layer.write_zeroes(3 * MIB - 5, MIB)
                layer.preallocate(0, MIB)
                buffer = bytearray(5 * MIB)
                assert layer.preadv([buffer], 0) == layer.size == 4 * MIB - 5
                expected = b"x" * 100 + bytes(2 * MIB) + b"x" * (MIB - 105) + bytes(2 * MIB + 5)
                assert buffer == expected
    assert len(modes) == len(set(modes)) == 2


@pytest.mark.parametrize("fstype", ["xfs", "btrfs"])
def test_clone_range_shares_space(tmp_path: Path, fstype: str) -> None:
    with mounted(fstype, SMALLEST[fstype], tmp_path) as directory:
        pool, source_id, target_id = make_pool(directory), str(uuid4()), str(uuid4())
        with (
            pool.create_device(Kind.LAYER, source_id) as source,
            pool.create_device(Kind.LAYER, target_id, 32 * MIB) as target,
        ):
            source.pwritev([os.urandom(MIB)] * 16, 0)
            source.flush()
            os.sync()
            before = pool.space().free
            [(fd, _, _)] = source.route(0, 16 * MIB)
            assert pool.clone_range(fd, target, 0, 8 * MIB, 16 * MIB)
            assert pool.clone_range(fd, target, 0, 0, 0)
            assert not pool.clone_range(fd, target, 1, 1, 4096)
            os.sync()
            assert pool.space().free > before - 4 * MIB
            original, copy = bytearray(MIB), bytearray(MIB)
            source.preadv([original], 15 * MIB)
            target.preadv([copy], 23 * MIB)
            assert original == copy


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "tmpfs", "ramfs"])
def test_the_type_of_a_file_system_is_found(tmp_path: Path, fstype: str) -> None:
    with mounted(fstype, SMALLEST[fstype], tmp_path) as directory:
        (directory / "below").mkdir()
        assert type_of(str(directory / "below")) == fstype


def test_clone_from_another_file_system_declines(small: Path, tmp_path: Path) -> None:
    pool = make_pool(small)
    source = tmp_path / "source"
    source.write_bytes(b"x" * MIB)
    with source.open("rb") as file, pool.create_device(Kind.LAYER, str(uuid4()), MIB) as layer:
        assert not pool.clone_range(file.fileno(), layer, 0, 0, MIB)
        with pytest.raises(errors.InvalidValue):
            pool.clone_range(file.fileno(), layer, 0, -1, MIB)


def test_clone_into_a_read_only_device_fails_and_names_it(tmp_path: Path) -> None:
    pool, layer_id = make_pool(tmp_path), str(uuid4())
    pool.create_device(Kind.LAYER, layer_id, MIB).close()
    with (
        pool.open_device(Kind.LAYER, layer_id, writable=False) as layer,
        pytest.raises(errors.PoolError, match=layer_id),
    ):
        pool.clone_range(layer.route(0, 1)[0][0], layer, 0, 0, 4096)


def test_copy_range_within_one_file_system_and_to_another(small: Path, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    for target_directory in (tmp_path, small):
        source, target = tmp_path / "source", target_directory / "target"
        source.write_bytes(content)
        with source.open("rb") as reading, target.open("w+b") as writing:
            assert copy_range(reading.fileno(), 5, writing.fileno(), 7, 2 * MIB) == 2 * MIB
            assert copy_range(reading.fileno(), 3 * MIB - 4, writing.fileno(), 0, 100) == 4
            assert copy_range(reading.fileno(), 3 * MIB, writing.fileno(), 0, 100) == 0
            assert copy_range(reading.fileno(), 0, writing.fileno(), 0, 0) == 0
        assert target.read_bytes() == content[-4:] + bytes(3) + content[5 : 5 + 2 * MIB]


def test_copy_range_from_a_source_the_kernel_will_not_copy(tmp_path: Path) -> None:
    expected = Path("/proc/self/limits").read_bytes()
    with Path("/proc/self/limits").open("rb") as source, (tmp_path / "target").open("wb") as target:
        assert copy_range(source.fileno(), 0, target.fileno(), 0, MIB) == len(expected)
    assert (tmp_path / "target").read_bytes() == expected


def test_copy_range_to_a_full_medium(small: Path, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 32 * MIB)
    with (
        (tmp_path / "source").open("rb") as source,
        (small / "target").open("wb") as target,
        pytest.raises(errors.NoSpace),
    ):
        copy_range(source.fileno(), 0, target.fileno(), 0, 32 * MIB)


def test_copy_range_with_a_target_not_open_for_writing(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    with (tmp_path / "source").open("rb") as source, pytest.raises(errors.PoolError):
        copy_range(source.fileno(), 0, source.fileno(), 8, 1)


def test_a_medium_remounted_read_only_is_readable_and_says_what_it_is(small: Path) -> None:
    pool, layer_id = make_pool(small), str(uuid4())
    pool.create_device(Kind.LAYER, layer_id, MIB).close()
    pool.put_blob(f"maps/{layer_id}", [b"x"])
    assert os.system(f"mount -o remount,ro {small}") == 0
    again = type(pool).open("test", pool.options)
    assert again.get_blob(f"maps/{layer_id}") == b"x"
    assert not again.capabilities.reflink
    for change in (
        lambda: again.put_blob(f"maps/{layer_id}", [b"y"]),
        lambda: again.create_device(Kind.LAYER, str(uuid4())),
        lambda: again.open_device(Kind.LAYER, layer_id, writable=True),
        lambda: again.delete_device(Kind.LAYER, layer_id),
    ):
        with pytest.raises(errors.ReadOnly):
            change()
