# SPDX-License-Identifier: Apache-2.0
"""Generic netlink: what messages look like, and real ones to the kernel's own controller."""

import contextlib
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisk_core.access import netlink
from fisk_core.access.netlink import ATTRIBUTE, HEADER, U32, Family, announcements
from fisk_core.errors import NotFound, PoolError

KINDS = st.integers(0, 0x3FFF)


def test_an_attribute_is_padded_and_its_length_is_not():
    assert netlink.attribute(10, b"abcde") == ATTRIBUTE.pack(9, 10) + b"abcde\0\0\0"


def test_a_nested_attribute_is_marked():
    inner = netlink.attribute(1, U32.pack(7))
    assert netlink.nested(7, inner) == ATTRIBUTE.pack(12, 7 | 0x8000) + inner


@given(st.lists(st.tuples(KINDS, st.binary(max_size=40))))
def test_attributes_are_read_as_they_were_written(pairs):
    assert list(netlink.attributes(b"".join(netlink.attribute(*pair) for pair in pairs))) == pairs


@pytest.mark.parametrize("data", [b"abc", ATTRIBUTE.pack(3, 1), ATTRIBUTE.pack(9, 1) + b"abcd"])
def test_malformed_attributes(data):
    with pytest.raises(PoolError, match="malformed attribute"):
        list(netlink.attributes(data))


@pytest.mark.parametrize("data", [b"abc", HEADER.pack(15, 2, 0, 1, 0), HEADER.pack(20, 2, 0, 1, 0)])
def test_malformed_messages(data):
    with pytest.raises(PoolError, match="malformed message"):
        list(netlink.messages(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    for take in (netlink.attributes, netlink.messages):
        with contextlib.suppress(PoolError):
            assert len(list(take(data))) <= len(data)


def test_messages_follow_each_other():
    first = HEADER.pack(HEADER.size + 5, 16, 0, 3, 0) + b"abcde\0\0\0"
    second = HEADER.pack(HEADER.size, 2, 0, 4, 0)
    assert list(netlink.messages(first + second)) == [(16, 3, b"abcde"), (2, 4, b"")]


def test_the_controller_describes_itself():
    with Family("nlctrl") as family:
        found = family.ask(3, netlink.attribute(2, b"nlctrl\0"))
        assert found[2] == b"nlctrl\0"
        with family.listen("notify") as sock:
            assert list(announcements(sock)) == []
        with pytest.raises(NotFound):
            family.listen("no such group")


def test_a_family_that_is_not_there():
    with pytest.raises(NotFound, match="no netlink family fisk-none"):
        Family("fisk-none")


def test_what_the_kernel_refuses_is_an_error():
    with Family("nlctrl") as family, pytest.raises(OSError, match=r"\[Errno") as caught:
        family.ask(99)
    assert caught.value.errno == errno.EOPNOTSUPP
