# SPDX-License-Identifier: Apache-2.0
"""Text of strangers: shown, never obeyed."""

import logging

import pytest

from fisk_core.cli import arguments
from fisk_core.cli.columns import Labels, Text, Words, shown
from fisk_core.client.address import resolve
from fisk_core.client.transport import Transport
from fisk_core.daemon.logs import _OneLine
from fisk_core.dataplane import control, qos
from fisk_core.engine import validate
from fisk_core.errors import InvalidValue
from fisk_core.text import printable

NASTY = "a\nb\x1b[31m\u202ec\x9b\ud800"
HARMLESS = r"a\nb\x1b[31m\u202ec\x9b\ud800"


def test_printable() -> None:
    assert printable(NASTY) == HARMLESS
    assert printable("plain é \u65e5 \\n") == "plain é \u65e5 \\n"
    assert printable("") == ""


def test_people_see_it_escaped_and_programs_as_it_is() -> None:
    for column, seen in (
        (Text(NASTY), HARMLESS),
        (Labels({NASTY: NASTY}), f"{HARMLESS}={HARMLESS}"),
        (Words([NASTY, "x"]), f"{HARMLESS}\nx"),
        (shown(NASTY), HARMLESS),
    ):
        assert column.human_readable() == seen
    assert shown(NASTY).machine_readable() == NASTY
    assert shown("plain") == "plain"
    assert shown(7) == 7


def test_a_message_is_one_line_of_the_log() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "GET %s", ("/a\n2026 forged",), None)
    assert _OneLine().filter(record)
    assert record.getMessage() == "GET /a\\n2026 forged"


@pytest.mark.parametrize("value", ["0" * 30 + "1", "9" * 5000, "1e3", "\u0663", "-1", ""])
def test_limits_that_are_none(value: str) -> None:
    with pytest.raises(InvalidValue):
        qos.value_of("qos.total_iops", value)


@pytest.mark.parametrize("value", ["9" * 5000, "9" * 13 + "h", "\x1b"])
def test_times_that_are_none(value: str) -> None:
    with pytest.raises(InvalidValue):
        arguments.duration(value)


def test_a_value_that_is_no_text() -> None:
    with pytest.raises(InvalidValue, match="not text"):
        validate.attributes({"a": "\udcff"})


@pytest.mark.parametrize("value", [None, "512", 0, -512, 10**300, float("nan"), float("inf"), [], 1 << 63])
def test_sizes_that_are_none(value: object) -> None:
    with pytest.raises(InvalidValue):
        control._size(value)


@pytest.mark.parametrize(
    "url",
    [
        "http://..",
        "http://127.0.0.1:abc",
        "http://127.0.0.1:99999",
        "http://[",
        "http://\x9b",
        "x",
        "unix://",
    ],
)
def test_urls_of_no_daemon_are_not_tried_for_a_minute(url: str) -> None:
    with pytest.raises(InvalidValue):
        Transport(resolve(url)).call("GET", "/fisks")
