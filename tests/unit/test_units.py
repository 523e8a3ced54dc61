# SPDX-License-Identifier: Apache-2.0
"""Sizes as people write and read them."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisk_core.errors import InvalidValue
from fisk_core.units import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512B", 512),
        ("1k", 1024),
        ("1K", 1024),
        ("1KB", 1024),
        ("1KiB", 1024),
        ("10G", 10 << 30),
        (" 10 GiB ", 10 << 30),
        ("1.5T", 3 << 39),
        ("0.5M", 1 << 19),
        ("64TiB", 64 << 40),
        ("1E", 1 << 60),
    ],
)
def test_sizes_are_powers_of_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "G",
        "-1",
        "1.",
        ".5G",
        "1,5G",
        "1e3",
        "10 X",
        "10GG",
        "0x10",
        "1 0G",
        "NaN",
        "ten",
        "1iB2",
        "9" * 5000,
        "1" * 400 + ".5",
    ],
)
def test_what_is_no_size_is_refused_in_one_line(text):
    with pytest.raises(InvalidValue) as caught:
        parse_size(text)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_refused(text):
    with suppress(InvalidValue):
        assert parse_size(text) >= 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10 << 30, "10.0 GiB"),
        (64 << 40, "64.0 TiB"),
        (1 << 50, "1.0 PiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_sizes_for_people(size, text):
    assert format_size(size) == text


@given(st.integers(min_value=0, max_value=64 << 40))
def test_what_is_written_reads_back_nearly_the_same(size):
    assert abs(parse_size(format_size(size)) - size) <= max(size * 0.05, 0)
