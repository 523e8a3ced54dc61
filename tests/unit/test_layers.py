# SPDX-License-Identifier: Apache-2.0
"""The open layers of a disk: right bytes by each alias, never more descriptors than allowed, none left."""

import errno
import os
import resource

import pytest

from fisk_core.dataplane.layers import HOLE, UNOPENED, Layers, direct
from fisk_core.errors import NotFound, Unsupported
from fisk_core.pools import Kind, create_pool
from fisk_core.pools.file_device import FileDevice
from tests.disks import TINY, make_disk, make_pool, new_id


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool")


@pytest.fixture
def ids(pool):
    """A hole and 40 layers; each holds its alias."""
    made = [None]
    for alias in range(1, 41):
        made.append(new_id())
        with pool.create_device(Kind.LAYER, made[-1], 512) as device:
            device.pwritev([alias.to_bytes(2, "big")], 0)
    return made


@pytest.fixture
def advised(monkeypatch):
    """(descriptor, advice) of each posix_fadvise for all of a file."""
    calls, real = [], os.posix_fadvise

    def recorder(fd, offset, length, advice):
        assert (offset, length) == (0, 0)
        calls.append((fd, advice))
        real(fd, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", recorder)
    return calls


def allow(monkeypatch, descriptors):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, 4096))


def opened(layers):
    """Give the aliases that are open; what their descriptors lead to is what their layers hold."""
    found = [alias for alias, fd in enumerate(layers.fds) if fd >= 0]
    for alias in found:
        assert os.pread(layers.fds[alias], 2, 0) == alias.to_bytes(2, "big")
    return found


def test_a_layer_is_opened_when_first_needed_and_once(pool, ids):
    layers = Layers(pool, ids)
    assert layers.fds == [HOLE] + [UNOPENED] * 40
    assert layers.open(0) == HOLE
    assert layers.open(7) == layers.open(7) == layers.fds[7]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(layers.fds[7], b"x", 0)
    assert opened(layers) == [7]
    pool.delete_device(Kind.LAYER, ids[8])
    with pytest.raises(NotFound):
        layers.open(8)
    layers.close()


def test_windows_have_a_fifth_of_the_descriptors(pool, ids, monkeypatch):
    allow(monkeypatch, 320 + 20)
    layers = Layers(pool, ids)
    opened_before = len(os.listdir("/proc/self/fd"))
    fds = [layers.open(alias) for alias in range(1, 11)]
    for fd in fds:
        with layers.windows.slice(fd, 0, 2, os.fstat(fd).st_size) as view:
            assert len(view) == 2
    assert len(os.listdir("/proc/self/fd")) == opened_before + 10 + 4
    layers.close()
    assert len(os.listdir("/proc/self/fd")) == opened_before


@pytest.mark.parametrize(("descriptors", "most"), [(0, 16), (320 + 16, 16), (320 + 26, 21)])
def test_half_of_the_layers_make_room_oldest_first_but_never_the_live_one(
    pool, ids, monkeypatch, descriptors, most
):
    allow(monkeypatch, descriptors)
    layers = Layers(pool, ids)
    layers.open(40)  # the last alias is the one that is written
    model = [40]
    for alias in [*range(30, 0, -1), *range(30, 0, -1)]:
        if alias in model:
            continue
        if len(model) == most:
            model = [40, *model[1 + most // 2 :]]
        layers.open(alias)
        model.append(alias)
        assert opened(layers) == sorted(model)
    layers.close()
    assert layers.fds == [UNOPENED] * 41


def test_no_layer_is_closed_under_a_thread_that_reads(pool, ids, monkeypatch):
    allow(monkeypatch, 0)
    layers = Layers(pool, ids)
    assert layers.pinned == 0
    layers.pinned = 1
    for alias in range(1, 40):
        layers.open(alias)
    assert opened(layers) == list(range(1, 40))
    layers.pinned = 0
    layers.open(40)
    assert opened(layers) == list(range(20, 41))
    layers.close()


def test_a_layer_that_is_added_is_the_next_or_one_not_opened(pool, ids):
    layers = Layers(pool, ids[:3])
    third, first = (pool.open_device(Kind.LAYER, ids[alias], writable=True) for alias in (3, 1))
    assert [layers.add(3, third), layers.add(1, first)] == [layers.fds[3], layers.fds[1]]
    assert opened(layers) == [1, 3]
    assert len(layers.fds) == 4
    layers.close()
    assert third.route(0, 1) == first.route(0, 1), "both are closed"


def test_advice_reaches_layers_opened_before_and_after_and_only_when_it_changes(pool, ids, advised):
    layers = Layers(pool, ids)
    one = layers.open(1)
    layers.advise(os.POSIX_FADV_RANDOM)
    assert advised == [(one, os.POSIX_FADV_RANDOM)]
    layers.advise(os.POSIX_FADV_SEQUENTIAL)
    layers.advise(os.POSIX_FADV_SEQUENTIAL)
    two = layers.open(2)
    assert advised[1:] == [(one, os.POSIX_FADV_SEQUENTIAL), (two, os.POSIX_FADV_SEQUENTIAL)]
    layers.close()


def test_only_plain_files_are_read_directly(pool, ids):
    """What a pool answers whose devices lie elsewhere, or in pieces."""
    with pool.create_device(Kind.LAYER, new_id()) as empty:
        asked, fd = [], empty.route(0, 1)[0][0]

        def routed(*routes):
            def route(offset, length):
                asked.append((offset, length))
                return list(routes)

            return route

        assert direct(empty) == fd
        for routes in ([(fd, 512, 1)], [(fd, 0, 1), (fd, 1, 1)], []):
            empty.route = routed(*routes)
            with pytest.raises(Unsupported, match=r"^this pool does not give layers as plain files$"):
                direct(empty)
        empty.truncate(700)
        empty.route = routed((fd, 0, 700))
        assert direct(empty) == fd
        assert asked == [(0, 1), (0, 1), (0, 1), (0, 700)]


def test_a_layer_that_cannot_be_had_leaves_nothing_open(tmp_path, monkeypatch):
    """Neither itself nor its checksums."""
    pool = create_pool("file", "summed", {"path": str(tmp_path / "summed"), "checksum": "crc32"})
    disk = make_disk(pool, 1 << 20)
    disk.write(0, b"x" * 512)
    disk.close()
    ids = [None, disk.spec.map_id]
    before = sorted(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(FileDevice, "route", lambda *_: [])
        for layers in (Layers(pool, ids, TINY), Layers(pool, ids)):
            with pytest.raises(Unsupported):
                layers.open(1)
            assert layers.fds == [HOLE, UNOPENED]
    pool.delete_device(Kind.LAYER, ids[1])
    for layers in (Layers(pool, ids, TINY), Layers(pool, ids)):
        with pytest.raises(NotFound):
            layers.open(1)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_checksums_are_let_go_with_their_layers(tmp_path, monkeypatch):
    pool = create_pool("file", "summed", {"path": str(tmp_path / "summed"), "checksum": "crc32"})
    ids = [None]
    for _ in range(20):
        with make_disk(pool, 1 << 20) as disk:
            disk.write(0, b"x" * 512)
            ids.append(disk.spec.map_id)
    before = sorted(os.listdir("/proc/self/fd"))
    allow(monkeypatch, 320 + 40)  # a fifth of these for windows
    layers = Layers(pool, ids, TINY)
    for alias in range(1, 18):
        fd = layers.open(alias)
        assert layers.checked[fd] is not None
        assert layers.checked.keys() == {fd for fd in layers.fds if fd >= 0}
    assert len(layers.checked) == 16 // 2 + 1, "a descriptor for the layer, and one for its checksums"
    layers.close()
    assert layers.checked == {}
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_layers_that_are_gone_are_let_go(pool, ids):
    """Their space comes back only then; the live one is kept, whatever became of it, and what is in use."""
    layers = Layers(pool, ids)
    for alias in (1, 2, 40):
        layers.open(alias)
    for alias in (2, 40):
        pool.delete_device(Kind.LAYER, ids[alias])
    layers.pinned = 1
    layers.release()
    assert opened(layers) == [1, 2, 40]
    layers.pinned = 0
    layers.release()
    assert opened(layers) == [1, 40]
    with pytest.raises(NotFound):
        layers.open(2)
    layers.close()


def test_a_layer_of_which_cannot_be_told_whether_it_is_gone_is_kept(pool, ids, monkeypatch):
    def refuse(fd):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    layers = Layers(pool, ids)
    layers.open(1), layers.open(40)
    pool.delete_device(Kind.LAYER, ids[1])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", refuse)
        layers.release()
    assert opened(layers) == [1, 40]
    layers.release()
    assert opened(layers) == [40]
    layers.close()
