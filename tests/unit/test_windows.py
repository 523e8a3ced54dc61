# SPDX-License-Identifier: Apache-2.0
"""Mapped parts of layers: the right bytes, few of them, and nothing kept that was let go."""

import os
import socket

import pytest

from fisk_core.dataplane import windows
from fisk_core.dataplane.windows import PART, SPAN, Windows

PAGE = 4096
WINDOWS = 4


@pytest.fixture
def layer(tmp_path):
    """A sparse file with a mark at the beginning of every window, and its descriptor."""
    fd = os.open(tmp_path / "layer", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, (WINDOWS + 3) * SPAN)
    for number in range(WINDOWS + 3):
        os.pwrite(fd, bytes([number + 1]) * PAGE, number * SPAN)
    yield fd
    os.close(fd)


@pytest.fixture
def opened():
    return Windows(WINDOWS)


def given(made, fd, offset, length):
    with made.slice(fd, offset, length, os.fstat(fd).st_size) as view:
        return bytes(view)


def mapped():
    with open("/proc/self/maps") as maps:
        return sum("/layer" in line for line in maps)


def test_the_right_bytes_of_each_window(opened, layer):
    for turn in range(2):
        for number in range(WINDOWS + 3):
            assert given(opened, layer, number * SPAN, PAGE) == bytes([number + 1]) * PAGE, turn
            assert mapped() <= WINDOWS
    assert mapped() == WINDOWS


def test_what_was_used_last_stays(opened, layer):
    for number in (0, 1, 2, 3, 0, 4):
        given(opened, layer, number * SPAN, 1)
    assert {number for _, number in opened._windows} == {2, 3, 0, 4}


def test_page_tables_are_bounded_by_what_was_touched(layer, monkeypatch):
    monkeypatch.setattr(windows, "MOST", 6)
    opened = Windows(100)
    for number in range(WINDOWS + 3):  # one part of each
        given(opened, layer, number * SPAN, PAGE), given(opened, layer, number * SPAN + PART - 1, 1)
        assert mapped() == min(number + 1, 6)
    given(opened, layer, PART - 1, 2)  # two more, and the window of the second is long gone
    assert {number for _, number in opened._windows} == {3, 4, 5, 6, 0}
    given(opened, layer, PART - 1, 2)
    assert mapped() == 5, "what was touched before costs nothing"
    given(opened, layer, SPAN, 10 * PART)
    assert mapped() == 1, "the newest is never too large"
    given(opened, layer, 0, 1)
    assert mapped() == 1


def test_a_range_that_goes_on_into_the_next_window(opened, layer):
    assert given(opened, layer, SPAN - 10, 20) == bytes(10) + b"\x02" * 10
    assert mapped() == 1


def test_what_is_written_is_seen(opened, layer):
    assert given(opened, layer, 5, 4) == b"\x01" * 4
    os.pwrite(layer, b"here", 5)
    assert given(opened, layer, 5, 4) == b"here"


def test_a_file_that_grew_and_what_is_behind_its_end(opened, tmp_path):
    fd = os.open(tmp_path / "layer", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 100, 0)
    assert given(opened, fd, 0, 100) == b"x" * 100
    assert opened.slice(fd, 0, 101, 100) is None
    os.pwrite(fd, b"y" * 100, SPAN)
    assert given(opened, fd, SPAN, 100) == b"y" * 100
    assert given(opened, fd, SPAN - 1, 2) == b"\0y"
    assert opened.slice(fd, 0, 10, 1 << 62) is not None
    assert opened.slice(fd, 5 * SPAN, 10, 1 << 62) is None, "it is said to be larger than it is"
    os.close(fd)


def test_what_was_let_go_is_mapped_no_more(opened, layer):
    given(opened, layer, 0, 1), given(opened, layer, SPAN, 1)
    opened.drop(layer + 1000)
    assert mapped() == 2
    opened.drop(layer)
    assert mapped() == 0
    assert given(opened, layer, 0, 1) == b"\x01"


def test_a_file_that_was_cut_is_an_error_of_the_call_that_sends_it(opened, layer):
    size = os.fstat(layer).st_size
    view = opened.slice(layer, SPAN, PAGE, size)
    os.truncate(layer, PAGE)
    one, two = socket.socketpair()
    with one, two, view, pytest.raises(OSError, match="Bad address"):
        one.sendmsg((b"head", view))


def test_no_room_to_map(opened, layer, monkeypatch):
    def refuse(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(windows.mmap, "mmap", refuse)
    assert opened.slice(layer, 0, 1, PAGE) is None
