# SPDX-License-Identifier: Apache-2.0
import errno
import os
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.blockmap import journal
from fisk_core.blockmap.journal import Journal, read
from fisk_core.errors import Corrupt, NoSpace, NotFound, PoolError

MAP = str(uuid.uuid4())


CAPACITY, STEP = 1 << 14, 1 << 11


@pytest.fixture
def small(monkeypatch):
    """A journal with room for a 64th of the usual, so that filling it takes no time."""
    header = 4096
    for name, value in (("CAPACITY", CAPACITY), ("_STEP", STEP), ("_SLACK", 1 << 9)):
        monkeypatch.setattr(journal, name, value)
    monkeypatch.setattr(journal, "_MASK", CAPACITY - 1)
    monkeypatch.setattr(journal, "_SIZE", header + 16 * CAPACITY)


@pytest.fixture
def made(tmp_path):
    opened = Journal(tmp_path / "journal", MAP, 7)
    yield opened
    opened.close(remove=True)


def content(made, map_id=MAP, epoch=7):
    return [tuple(change) for change in read(made.path, map_id, epoch)]


def test_what_was_noted_is_read_in_order(made):
    made.note(3, 1, True)
    made.note(2**40, 2**30, False)
    assert content(made) == [(3, 1, True), (2**40, 2**30, False)]


def test_what_was_flushed_is_forgotten(made):
    made.note(1, 1, True)
    mark = made.end
    made.note(2, 1, True)
    made.forget(mark)
    assert content(made) == [(2, 1, True)]
    made.forget(made.end)
    assert content(made) == []
    made.note(5, 1, False)
    assert content(made) == [(5, 1, False)]


@pytest.mark.parametrize("epoch", [8, 6])
def test_a_journal_of_another_writer_is_void(made, epoch):
    made.note(1, 1, True)
    assert content(made, epoch=epoch) == []


def test_a_journal_of_another_map_is_out_of_place(made):
    with pytest.raises(Corrupt, match=f"says it is of the map {MAP}"):
        content(made, map_id=str(uuid.uuid4()))


def test_a_journal_of_another_boot_is_void(made, monkeypatch):
    made.note(1, 1, True)
    monkeypatch.setattr(journal, "_boot", lambda: str(uuid.uuid4()))
    assert content(made) == []


def test_no_journal(tmp_path):
    assert [*read(tmp_path / "none", MAP, 7)] == []


@pytest.mark.parametrize("length", [1, 100, 4095, 4096, 4111])
def test_a_cut_journal_is_damaged(made, length):
    made.note(1, 1, True)
    copy = made.path.with_name("copy")
    copy.write_bytes(made.path.read_bytes()[:length])
    with pytest.raises(Corrupt, match="copy"):
        [*read(copy, MAP, 7)]


def test_one_of_which_only_the_name_reached_the_medium_is_void(made):
    copy = made.path.with_name("copy")
    copy.write_bytes(b"")
    assert [*read(copy, MAP, 7)] == []


def test_every_flipped_bit_that_matters_is_noticed(made):
    for number in range(5):
        made.note(7 * number, 3, number % 2 == 0)
    made.forget(1)
    whole, copy = made.path.read_bytes()[: 4096 + 16 * 8], made.path.with_name("copy")
    wanted = content(made)
    for position in (*range(92), *range(128, 144), *range(4096, 4096 + 16 * 5)):
        for bit in range(8):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            copy.write_bytes(data)
            try:
                assert [tuple(change) for change in read(copy, MAP, 7)] == wanted
                assert 4096 <= position < 4096 + 16, "what was flushed is not looked at"
            except Corrupt:
                assert not 4096 <= position < 4096 + 16


def test_a_damaged_journal_is_reported_and_worth_nothing(made, expect_logs):
    expect_logs("does not match its checksum; what was written to")
    made.note(1, 1, True)
    with made.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"x")
    with journal.Salvage(made.path, MAP, 7) as noted:
        assert noted.changes == []


def test_a_journal_is_void_though_its_file_cannot_be_touched_any_more(made, monkeypatch):
    def gone(*_arguments, **_more):
        raise OSError(errno.EIO, "the disk is gone")

    made.note(1, 1, True)
    with journal.Salvage(made.path, MAP, 7) as noted:
        assert noted.changes == [(1, 1, True)]
        with monkeypatch.context() as broken:
            for name in ("open", "pwrite", "ftruncate", "unlink", "rename", "replace"):
                broken.setattr(os, name, gone)
            noted.forget()
    assert [*read(made.path, MAP, 7)] == []


def test_a_journal_that_could_not_be_voided_is_not_replayed(made, monkeypatch):
    def refused(*_arguments):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    made.note(1, 1, True)
    with monkeypatch.context() as broken:
        broken.setattr(journal.mmap, "mmap", refused)
        with pytest.raises(PoolError, match="map the journal"):
            journal.Salvage(made.path, MAP, 7)
    assert [*read(made.path, MAP, 7)] == [(1, 1, True)]


def test_a_journal_of_the_version_before_is_read(made):
    made.note(3, 2, True)
    data = bytearray(made.path.read_bytes()[: 4096 + 16])
    data[:8] = b"FISKJRN1"
    data[136:144] = (1).to_bytes(8, "little")
    data[4104:4112] = (5).to_bytes(8, "little")
    copy = made.path.with_name("copy")
    copy.write_bytes(data)
    assert [*read(copy, MAP, 7)] == [(3, 2, True)]


def test_a_closed_journal_stays_or_goes(tmp_path):
    kept = Journal(tmp_path / "kept", MAP, 1)
    kept.note(9, 1, True)
    kept.close(remove=False)
    assert [*read(tmp_path / "kept", MAP, 1)] == [(9, 1, True)]
    Journal(tmp_path / "kept", MAP, 2).close(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_no_place_for_it(tmp_path):
    with pytest.raises(NotFound, match="make the journal"):
        Journal(tmp_path / "none" / "journal", MAP, 1)


def no_space(*_):
    raise OSError(28, "No space left on device")


def test_no_space_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(NoSpace, match="260 KiB"):
        Journal(tmp_path / "journal", MAP, 1)
    (tmp_path / "journal").write_bytes(b"of no use")
    with pytest.raises(NoSpace, match="260 KiB"):
        Journal(tmp_path / "journal", MAP, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_without_space_the_file_of_the_writer_before_is_taken_over(small, made, monkeypatch):
    fill(made, 100)
    made.close(remove=False)
    inode = made.path.stat().st_ino
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    after = Journal(made.path, MAP, 8)
    assert made.path.stat().st_ino == inode
    assert content(after) == content(after, epoch=8) == []
    after.note(9, 1, True)
    assert content(after, epoch=8) == [(9, 1, True)]
    assert content(after, epoch=7) == []
    assert STEP // 2 < fill(after, CAPACITY) < STEP
    assert after.full
    after.close(remove=True)
    assert not made.path.exists()


def fill(made, wanted):
    """Note as much as there is room for, one by one; gives how many."""
    count = 0
    while count < wanted:
        if made.end > made.limit and not made.make_room() and made.full:
            break
        made.note(count, 1, True)
        count += 1
    return count


def test_space_is_allocated_as_it_is_needed(small, made):
    before = os.stat(made.path).st_blocks
    assert fill(made, CAPACITY // 4) == CAPACITY // 4
    assert os.stat(made.path).st_blocks > before
    assert len(content(made)) == CAPACITY // 4


def test_it_fills_and_empties(small, made):
    assert CAPACITY * 0.9 < fill(made, CAPACITY) < CAPACITY
    assert made.full
    assert not made.make_room()
    mark = made.end - 10
    made.forget(mark)
    assert not made.full
    assert made.make_room()
    assert len(content(made)) == 10
    assert fill(made, CAPACITY // 2) == CAPACITY // 2  # around the end of the ring
    assert [change[0] for change in content(made)[10:]] == list(range(CAPACITY // 2))


def test_a_full_disk_is_a_full_journal(small, made, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    count = fill(made, CAPACITY)
    assert made.full
    assert os.stat(made.path).st_blocks * 512 >= 16 * count  # no store ever met a hole
    made.forget(made.end)
    assert not made.full


@given(st.lists(st.one_of(st.tuples(st.integers(0, 2**40), st.integers(1, 2**32), st.booleans()), st.none())))
@settings(max_examples=50, deadline=None)
def test_always_what_was_noted_since_the_last_flush(tmp_path_factory, steps):
    made = Journal(tmp_path_factory.mktemp("j") / "journal", MAP, 7)
    model, mark = [], 0
    for step in steps:
        if step is None:
            made.forget(mark)
            model, mark = model[-(made.end - made.start) :] if made.end > made.start else [], made.end
        else:
            made.note(*step)
            model.append(step)
    assert content(made) == model
    made.close(remove=True)


def test_bounds_that_cannot_be_are_damage(made):
    with made.path.open("r+b") as file:
        file.seek(136)
        file.write((65537 * (journal.CAPACITY + 1)).to_bytes(8, "little"))
    with pytest.raises(Corrupt, match="more than there is room for"):
        content(made)


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


def fail(*_):
    raise OSError(5, "it failed")


def test_a_journal_that_cannot_be_named_leaves_nothing(tmp_path, monkeypatch):
    before = descriptors()
    monkeypatch.setattr(type(tmp_path), "rename", fail)
    with pytest.raises(PoolError, match="it failed"):
        Journal(tmp_path / "journal", MAP, 1)
    assert (list(tmp_path.iterdir()), descriptors()) == ([], before)


@pytest.mark.parametrize("broken", [(journal.mmap, "mmap"), (os, "pwrite")])
def test_a_journal_that_cannot_be_taken_over_either(tmp_path, monkeypatch, broken):
    Journal(tmp_path / "journal", MAP, 1).close(remove=False)
    before = descriptors()
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    monkeypatch.setattr(*broken, fail)
    with pytest.raises(NoSpace, match="260 KiB"):
        Journal(tmp_path / "journal", MAP, 2)
    assert descriptors() == before


def test_a_head_that_is_written_little_by_little(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:7], offset))
    made = Journal(tmp_path / "journal", MAP, 7)
    made.note(3, 1, True)
    assert content(made) == [(3, 1, True)]
    made.close(remove=True)
