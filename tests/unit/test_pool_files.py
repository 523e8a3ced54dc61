# SPDX-License-Identifier: Apache-2.0
"""Files that appear as a whole or not at all: which step comes before which, and what others do meanwhile."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisk_core.errors import InvalidValue, PoolError
from fisk_core.pools import _files

TEMPORARY = ".0123456789abcdef.tmp"


@pytest.fixture
def steps(monkeypatch):
    """(call, name of the file, its content then) of each call that orders durability, in order."""
    made = []

    def record(name, path_of):
        real = getattr(os, name)

        def recorder(*arguments):
            path = Path(path_of(*arguments))
            label = "new" if _files.is_temporary(path.name) else path.name
            made.append((name, label, path.read_bytes() if path.is_file() else None))
            return real(*arguments)

        monkeypatch.setattr(os, name, recorder)

    for name in ("fsync", "fdatasync"):
        record(name, lambda fd: os.readlink(f"/proc/self/fd/{fd}"))
    record("rename", lambda path, _: path)
    return made


def names(directory):
    return sorted(os.listdir(directory))


def test_what_is_called_like_a_temporary_file():
    assert _files.is_temporary(TEMPORARY)
    for other in (TEMPORARY[1:], "x" + TEMPORARY, TEMPORARY + "x", TEMPORARY.upper(), ".0123.tmp", ".x.tmp"):
        assert not _files.is_temporary(other)


def test_a_temporary_file_is_private_locked_and_gone_at_the_end(tmp_path):
    with _files.temporary(str(tmp_path)) as (fd, path):
        [name] = names(tmp_path)
        assert (os.path.dirname(path), os.path.basename(path)) == (str(tmp_path), name)
        assert _files.is_temporary(name)
        found = os.fstat(fd)
        assert (stat.S_IMODE(found.st_mode), found.st_size) == (0o600, 0)
        assert _files.sweep(str(tmp_path)) == 0
        os.write(fd, b"both")
        assert os.pread(fd, 4, 0) == b"both"
    assert names(tmp_path) == []
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_a_temporary_file_swept_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    """Another process may come between the two."""
    real, swept = fcntl.flock, []

    def flock(fd, operation):
        if len(swept) < 2:
            swept.extend(names(tmp_path))
            os.unlink(tmp_path / swept[-1])
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with _files.temporary(str(tmp_path)) as (_, path):
        assert len(set(swept)) == 2
        assert [os.path.basename(path)] == names(tmp_path)
        assert os.path.basename(path) not in swept


def test_sweeping(tmp_path, monkeypatch):
    held = tmp_path / ".00000000000000aa.tmp"
    for name in (held.name, TEMPORARY, ".00000000000000bb.tmp", "kept", ".kept.tmp"):
        (tmp_path / name).write_bytes(b"x")
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert _files.sweep(str(tmp_path)) == 2
    assert names(tmp_path) == [held.name, ".kept.tmp", "kept"]
    assert _files.sweep(str(tmp_path)) == 1

    # Whoever made a file may rename or remove it at any moment of a sweep
    assert not _files._remove_if_unheld(str(held))
    held.write_bytes(b"x")
    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda fd, operation: (held.unlink(), real(fd, operation)))
    assert _files.sweep(str(tmp_path)) == 0


def test_what_is_swept_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / TEMPORARY)
    assert _files.sweep(str(tmp_path)) == 1
    (tmp_path / "kept").write_bytes(b"x")
    (tmp_path / TEMPORARY).symlink_to(tmp_path / "kept")
    with pytest.raises(OSError, match="symbolic"):
        _files.sweep(str(tmp_path))
    assert (tmp_path / "kept").exists()


def test_a_file_is_replaced_in_the_order_that_a_power_loss_wants(tmp_path, steps, monkeypatch):
    target = tmp_path / "name"
    target.write_bytes(b"old")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    _files.replace(str(target), [b"new ", b"", b"content"], durable=True)
    whole = b"new content"
    assert steps == [("fdatasync", "new", whole), ("rename", "new", whole), ("fsync", tmp_path.name, None)]
    steps.clear()
    _files.replace(str(target), [b"again"], durable=False)
    assert steps == [("rename", "new", b"again")]
    assert (target.read_bytes(), names(tmp_path)) == (b"again", ["name"])


def test_many_files_are_replaced_step_by_step(tmp_path, steps):
    for directory in "ba":
        (tmp_path / directory).mkdir()
    paths = [tmp_path / "b" / "1", tmp_path / "a" / "2", tmp_path / "b" / "3"]
    _files.replace_many([(str(path), path.name.encode() * 5) for path in paths])
    contents = [b"1" * 5, b"2" * 5, b"3" * 5]
    assert steps == [
        *(("fdatasync", "new", content) for content in contents),
        *(("rename", "new", content) for content in contents),
        ("fsync", "a", None),
        ("fsync", "b", None),
    ]
    assert [path.read_bytes() for path in paths] == contents
    assert (names(tmp_path / "a"), names(tmp_path / "b")) == (["2"], ["1", "3"])


def test_many_files_of_which_one_cannot_be_made(tmp_path, steps):
    (tmp_path / "1").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        _files.replace_many([(str(tmp_path / "1"), b"new"), (str(tmp_path / "none" / "2"), b"new")])
    assert (names(tmp_path), steps) == (["1"], [])
    assert (tmp_path / "1").read_bytes() == b"old"


def test_syncing_a_path_follows_no_link_and_takes_no_file_for_a_directory(tmp_path, steps):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    _files.sync_file(str(tmp_path / "file"))
    assert steps == [("fsync", "file", b"x")]
    with pytest.raises(OSError, match="symbolic"):
        _files.sync_file(str(tmp_path / "link"))
    with pytest.raises(NotADirectoryError):
        _files.sync_directory(str(tmp_path / "file"))
    assert len(steps) == 1


def test_whether_there_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nothing")
    assert _files.is_there(str(tmp_path / "file"))
    assert _files.is_there(str(tmp_path / "dangling"))
    assert not _files.is_there(str(tmp_path / "nothing"))
    with pytest.raises(PoolError, match=f"stat {tmp_path}/file/below: Not a directory"):
        _files.is_there(str(tmp_path / "file" / "below"))


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.sampled_from([errno.EFBIG, errno.EINVAL]))
def test_the_largest_size_a_file_can_have(limit, most, refusal):
    """Against file systems that end at ``most``: there are none of every kind to try it on."""
    sizes = [0]

    def truncate(path, size):
        if size > most:
            raise OSError(refusal, "too large")
        assert path == "file"
        sizes.append(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "truncate", truncate)
        found = _files.largest("file", limit)
    assert found == max(sizes) == min(limit, most) // 4096 * 4096


def test_the_largest_size_when_asking_fails(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert _files.largest(str(tmp_path / "file"), 10_000) == os.stat(tmp_path / "file").st_size == 8192
    with pytest.raises(FileNotFoundError):
        _files.largest(str(tmp_path / "none"), 8192)


def test_a_root_is_made_durably_from_above(tmp_path, steps):
    root = tmp_path / "a" / "b" / "c"
    _files.make_root(str(root))
    assert [(call, name) for call, name, _ in steps] == [
        ("fsync", tmp_path.name),
        ("fsync", "a"),
        ("fsync", "b"),
    ]
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    _files.make_root(str(root))
    assert len(steps) == 3
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidValue, match="file is not a directory"):
        _files.make_root(str(tmp_path / "file"))
    with pytest.raises(InvalidValue, match="file is not a directory"):
        _files.make_root(str(tmp_path / "file" / "below"))


def test_a_root_that_another_makes_meanwhile_is_made_durable_all_the_same(tmp_path, steps, monkeypatch):
    real = os.mkdir

    def mkdir(path, mode):
        real(path, mode)
        raise FileExistsError

    monkeypatch.setattr(os, "mkdir", mkdir)
    _files.make_root(str(tmp_path / "root"))
    assert [(call, name) for call, name, _ in steps] == [("fsync", tmp_path.name)]


def test_directories(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("one")
    assert sorted(_files.directories(str(tmp_path))) == [f"{tmp_path}/one", f"{tmp_path}/two"]
