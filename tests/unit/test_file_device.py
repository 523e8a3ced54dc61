# SPDX-License-Identifier: Apache-2.0
"""A file as a device against a bytearray, on file systems that can all, some or nothing of fallocate, with
system calls that do less than they are asked; and what is said when they fail."""

import errno
import os
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core import _linux, errors
from fisk_core.pools import _filesystem, file_device
from fisk_core.pools.file_device import FileBlob, FileDevice

PUNCH, ZERO, KEEP = 3, 16, 1  # modes of fallocate(2)
SIZE = 5 << 20


class Modes:
    """A file system that knows some modes of fallocate, and counts what it is asked for."""

    def __init__(self, *modes):
        self.modes, self.asked = modes, []

    def fallocate(self, fd, mode, offset, length):
        self.asked.append((mode, offset, length))
        if mode in self.modes:
            real = PUNCH if mode == ZERO else mode  # not every file system has the other
            if mode == ZERO:
                os.ftruncate(fd, max(os.fstat(fd).st_size, offset + length))
            _linux.fallocate(fd, real, offset, length)
        return mode in self.modes


@contextmanager
def opened(path, *modes, writable=True):
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CREAT)
    with FileDevice(fd, "layer 7", writable, Modes(*modes)) as device:
        yield device


@contextmanager
def little_at_once(most):
    """System calls that do only ``most`` bytes of what they are asked, as they may."""

    def fewer(buffers):
        left, parts = most, []
        assert len(buffers) <= 1024, "more than the kernel takes"
        for buffer in buffers:
            if left:
                parts.append(memoryview(buffer)[:left])
                left -= len(parts[-1])
        return parts

    preadv, pwritev = os.preadv, os.pwritev
    with pytest.MonkeyPatch.context() as patch:
        if most:
            patch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, fewer(buffers), offset))
            patch.setattr(os, "pwritev", lambda fd, buffers, offset: pwritev(fd, fewer(buffers), offset))
        yield


where = st.tuples(
    st.integers(0, 3 << 20), st.one_of(st.integers(0, 9000), st.sampled_from([1 << 20, 1 << 21, 1100000]))
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), where, st.lists(st.integers(0, 5000), max_size=4)),
        st.tuples(st.sampled_from(["discard", "write_zeroes", "preallocate"]), where),
        st.tuples(st.just("truncate"), st.integers(0, SIZE)),
    ),
    max_size=7,
)


@given(
    steps,
    st.sampled_from([(), (PUNCH,), (PUNCH, ZERO), (PUNCH, ZERO, KEEP)]),
    st.sampled_from([None, 4096, 50_000]),
)
@settings(max_examples=120, deadline=None)
def test_like_a_bytearray(tmp_path_factory, history, modes, most):
    model = bytearray()
    with opened(tmp_path_factory.mktemp("d") / "file", *modes) as device, little_at_once(most):
        for number, (verb, *given_) in enumerate(history, 1):
            if verb == "truncate":
                [size] = given_
                device.truncate(size)
                model = model[:size].ljust(size, b"\0")
                continue
            offset, length = given_[0]
            end = offset + length
            if verb == "write":
                parts = [bytes([number]) * count for count in given_[1]]
                data = b"".join(parts)
                assert device.pwritev([memoryview(part) for part in parts], offset) == len(data)
                if data:
                    model = model.ljust(offset + len(data), b"\0")
                    model[offset : offset + len(data)] = data
            elif verb == "discard":
                device.discard(offset, length)
                model[offset:end] = bytes(max(0, min(end, len(model)) - offset))
            elif verb == "write_zeroes":
                device.write_zeroes(offset, length)
                if length:
                    model = model.ljust(end, b"\0")
                    model[offset:end] = bytes(length)
            else:
                assert device.preallocate(offset, length) == (KEEP in modes or not length)
        assert device.size == len(model)
        found = [bytearray(b"x" * 1000), bytearray(b"x" * len(model)), bytearray(b"x" * 10)]
        assert device.preadv(found, 0) == len(model)
        assert b"".join(found).startswith(model)
        covered = bytearray(len(model))
        last = 0
        for offset, length in device.data_extents(0, len(model) + 5):
            assert length > 0
            assert last <= offset
            last = offset + length
            covered[offset:last] = b"x" * length
        assert last <= len(model)
        assert all(not any(model[at : at + 4096]) for at in range(0, len(model), 4096) if not covered[at])


@pytest.mark.parametrize("buffers", [1023, 1024, 1025, 3000])
def test_any_number_of_buffers(tmp_path, buffers):
    parts = [bytes([number % 250, 7]) for number in range(buffers)]
    with opened(tmp_path / "file") as device:
        with little_at_once(999):
            assert device.pwritev(parts, 3) == 2 * buffers
            found = [bytearray(2) for _ in range(buffers)]
            assert device.preadv(found, 3) == 2 * buffers
        assert found == parts
        whole = bytearray(2 * buffers)
        assert device.preadv([whole], 3) == len(whole)
        assert whole == b"".join(parts)


def test_what_is_asked_of_the_file_system(tmp_path):
    with opened(tmp_path / "file", PUNCH, ZERO, KEEP) as device:
        asked = device._file_system.asked
        device.write_zeroes(100, 4000)
        device.discard(200, 300)
        device.preallocate(0, 8192)
        for verb in (device.discard, device.write_zeroes):
            verb(50, 0)
        assert device.preallocate(50, 0)
        assert asked == [(ZERO, 100, 4000), (PUNCH, 200, 300), (KEEP, 0, 8192)]
        assert device.size == 4100
        device.truncate(1 << 20)
        device.preallocate(0, 1 << 20)
        assert device.allocated() == os.stat(tmp_path / "file").st_blocks * 512 >= 1 << 20


def test_zeros_are_written_in_bounded_pieces(tmp_path):
    """Where the file system knows no holes, a large discard must not take as much memory."""
    calls = []
    real = os.pwritev

    def pwritev(fd, buffers, offset):
        calls.append((len(buffers), sum(map(len, buffers))))
        return real(fd, buffers, offset)

    with opened(tmp_path / "file") as device, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", pwritev)
        device.write_zeroes(0, (2 << 20) + 1)
        device.discard(1 << 20, 1 << 40)
        assert device.size == (2 << 20) + 1
    assert [total for _, total in calls] == [1 << 20, 1 << 20, 1, 1 << 20, 1]
    assert max(count for count, _ in calls) <= 17


def test_extents_of_data_are_cut_to_the_range(tmp_path):
    with opened(tmp_path / "file", PUNCH) as device:
        device.truncate(10 << 20)
        for offset in (1 << 20, 4 << 20):
            device.pwritev([b"x" * (1 << 20)], offset)
        extents = device.data_extents
        assert list(extents(0, 10 << 20)) == [(1 << 20, 1 << 20), (4 << 20, 1 << 20)]
        assert list(extents(1 << 20, 10)) == [(1 << 20, 10)]
        assert list(extents((2 << 20) - 5, 3 << 20)) == [((2 << 20) - 5, 5), (4 << 20, (1 << 20) - 5)]
        assert list(extents(2 << 20, 2 << 20)) == list(extents(9 << 20, 1 << 30)) == list(extents(0, 0)) == []
        assert list(extents(0, (1 << 20) + 1)) == [(1 << 20, 1)]
        assert list(extents(0, 1 << 20)) == []


def test_a_file_that_changes_while_its_extents_are_told(tmp_path, monkeypatch):
    """Another thread may discard, or cut the file, between two calls."""
    with opened(tmp_path / "file") as device:
        device.pwritev([b"x" * 100_000], 0)
        answers = iter([8192, 4096, 12288, 20480])  # data at 8192, but the next hole before it; then again
        monkeypatch.setattr(os, "lseek", lambda *_: next(answers))
        extents = device.data_extents(0, 20480)
        assert list(extents) == [(12288, 8192)]
        seeks = iter([4096, OSError(errno.ENXIO, "cut")])

        def lseek(fd, offset, how):
            answer = next(seeks)
            if isinstance(answer, OSError):
                raise answer
            return answer

        monkeypatch.setattr(os, "lseek", lseek)
        assert list(device.data_extents(0, 9000)) == [(4096, 9000 - 4096)]


# Failures


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EBADF, errno.EINVAL])
@pytest.mark.parametrize("writable", [True, False])
def test_every_failure_is_typed_and_names_the_object(tmp_path, monkeypatch, code, writable):
    def fail(*_):
        raise OSError(code, "it failed")

    (tmp_path / "file").write_bytes(b"x" * 100)
    usual = type(errors.from_oserror(OSError(code, ""), ""))
    changed = errors.ReadOnly if not writable and code in (errno.EBADF, errno.EINVAL) else usual
    with opened(tmp_path / "file", PUNCH, ZERO, KEEP, writable=writable) as device:
        cases = [
            ("preadv", lambda: device.preadv([bytearray(5)], 7), usual, "read layer 7 at 7: it failed"),
            ("lseek", lambda: [*device.data_extents(0, 9)], usual, "look for data in layer 7: it failed"),
            ("fdatasync", device.flush, usual, "flush layer 7: it failed"),
            ("fstat", lambda: device.size, usual, "stat layer 7: it failed"),
            ("fstat", device.allocated, usual, "stat layer 7: it failed"),
            ("pwritev", lambda: device.pwritev([b"x"], 3), changed, "write layer 7 at 3"),
            ("ftruncate", lambda: device.truncate(3), changed, "truncate layer 7 to 3"),
        ]
        for name, call, kind, message in cases:
            with monkeypatch.context() as patch:
                patch.setattr(os, name, fail)
                failure(call, kind, message)
        device._file_system.fallocate = fail
        for call, doing in (
            (device.discard, "discard in"),
            (device.write_zeroes, "write zeros to"),
            (device.preallocate, "preallocate in"),
        ):
            failure(lambda call=call: call(5, 6), changed, f"{doing} layer 7 at 5")


def failure(call, kind, message):
    with pytest.raises(errors.FiskError) as caught:
        call()
    assert type(caught.value) is kind
    wanted = f"{message}: it was opened for reading only" if kind is errors.ReadOnly else message
    assert str(caught.value).removesuffix(": it failed") == wanted.removesuffix(": it failed")
    assert ": it" in str(caught.value)


def test_ranges_that_make_no_sense_reach_no_file(tmp_path):
    with opened(tmp_path / "file", PUNCH, ZERO, KEEP) as device:
        for call in (
            device.discard,
            device.write_zeroes,
            device.preallocate,
            lambda *a: [*device.data_extents(*a)],
        ):
            for bad in ((-1, 1), (1, -1)):
                with pytest.raises(errors.InvalidValue):
                    call(*bad)
        with pytest.raises(errors.InvalidValue):
            device.truncate(-1)
        assert device._file_system.asked == []


def test_after_close_no_descriptor_is_touched(tmp_path):
    """Least of all one that another file got meanwhile."""
    with opened(tmp_path / "file") as device:
        device.pwritev([b"x"], 0)
        assert device.route(3, 4) == [(device._fd, 3, 4)]
        assert repr(device) == "<file layer 7>"
    number = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    device.close()
    for call in (device.flush, lambda: device.pwritev([b"y"], 0), lambda: device.size):
        with pytest.raises(errors.PoolError, match="layer 7"):
            call()
    os.fstat(number)
    os.close(number)
    assert device.route(0, 1)[0][0] > 1 << 30


# Blobs


@pytest.fixture
def blob(tmp_path):
    (tmp_path / "blob").write_bytes(bytes(range(256)) * 4)
    with FileBlob(os.open(tmp_path / "blob", os.O_RDONLY), "blob 9") as opened:
        yield opened


@pytest.mark.parametrize("most", [1, 7, 1 << 20])
@pytest.mark.parametrize("largest", [5, 1 << 30])
@pytest.mark.parametrize(
    ("length", "offset"), [(0, 0), (1, 0), (10, 3), (1024, 0), (50, 1000), (5, 5000), (2000, 0)]
)
def test_a_blob_gives_what_is_there(blob, monkeypatch, most, largest, length, offset):
    """read(2) gives less than 2 GiB at once, and may give less than that."""
    asked, real = [], os.pread

    def pread(fd, count, at):
        asked.append(count)
        return real(fd, min(count, most), at)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(file_device, "_READ_MAX", largest)
    assert blob.size == 1024
    assert blob.pread(length, offset) == (bytes(range(256)) * 4)[offset : offset + length]
    assert max(asked, default=0) <= largest


def test_a_blob_that_cannot_be_read(blob, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "it failed")

    with pytest.raises(errors.InvalidValue):
        blob.pread(1, -1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        patch.setattr(os, "fstat", fail)
        failure(lambda: blob.pread(5, 7), errors.PoolError, "read blob 9 at 7")
        failure(lambda: blob.size, errors.PoolError, "stat blob 9")
    blob.close()
    blob.close()
    with pytest.raises(errors.PoolError, match="blob 9"):
        blob.pread(1, 0)


def test_a_mode_the_file_system_lacks_is_asked_for_once(tmp_path, monkeypatch):
    """And what goes wrong otherwise is no lack."""
    asked, answer = [], [OSError(errno.EOPNOTSUPP, "")]

    def fallocate(*arguments):
        asked.append(arguments)
        if answer:
            raise answer[0]

    monkeypatch.setattr(_linux, "fallocate", fallocate)
    system = _filesystem.FileSystem(str(tmp_path), preallocate=True)
    assert not system.fallocate(9, PUNCH, 1, 2)
    assert not system.fallocate(9, PUNCH, 1, 2)
    assert asked == [(9, PUNCH, 1, 2)]
    answer[0] = OSError(errno.ENOSPC, "")
    with pytest.raises(OSError, match="28"), suppress(FileNotFoundError):
        system.fallocate(9, ZERO, 1, 2)
    answer.clear()
    assert system.fallocate(9, ZERO, 1, 2)
