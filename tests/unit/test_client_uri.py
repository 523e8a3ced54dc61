# SPDX-License-Identifier: Apache-2.0
"""NBD URIs and addresses."""

from pathlib import Path

import pytest

from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.client_tls import Tls, read_psk
from fisk_core.dataplane.client_uri import Target, as_target, parse_uri
from fisk_core.errors import FiskError, InvalidValue, NotFound


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("nbd://example.com", Target(host="example.com")),
        ("nbd://example.com/", Target(host="example.com")),
        ("nbd://example.com//name", Target(host="example.com", export="/name")),
        ("nbd://example.com:10810/a%20b", Target(host="example.com", port=10810, export="a b")),
        ("nbd://[::1]:10810/x", Target(host="::1", port=10810, export="x")),
        ("nbd:///x", Target(host="localhost", export="x")),
        ("nbd+unix:///?socket=/tmp/s", Target(path="/tmp/s")),
        ("nbd+unix:///disk%2F1?socket=/tmp/a%20b", Target(path="/tmp/a b", export="disk/1")),
        ("nbd+unix:///?socket=/tmp/a+b%26c", Target(path="/tmp/a+b&c")),
        ("nbds://example.com", Target(host="example.com", tls=Tls())),
        ("nbds://alice@example.com", Target(host="example.com", tls=Tls(username="alice"))),
        ("nbds+unix:///?socket=/s&tls-hostname=h", Target(path="/s", tls=Tls(hostname="h"))),
        ("nbd://example.com/?unheard-of=1", Target(host="example.com")),
    ],
)
def test_uris(uri: str, target: Target) -> None:
    assert parse_uri(uri) == target


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.com",
        "nbd+unix:///x",
        "nbd://example.com/?socket=/s",
        "nbd://example.com:port/",
        "nbd://example.com:99999/",
        "nbd://[::1/",
        "example.com",
    ],
)
def test_what_is_no_uri(uri: str) -> None:
    with pytest.raises(InvalidValue):
        parse_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "nbd://example.com/a%2Fb",
        "nbd://[::1]:99/",
        "nbd+unix:///n?socket=/tmp/a%20b",
        "nbds+unix:///?socket=/s",
    ],
)
def test_a_target_prints_as_the_uri_it_came_from(uri: str) -> None:
    assert str(parse_uri(uri)) == uri
    assert parse_uri(str(parse_uri(uri))) == parse_uri(uri)


def test_other_addresses() -> None:
    assert as_target("/run/x.nbd") == as_target(Path("/run/x.nbd")) == Target(path="/run/x.nbd")
    assert as_target(("::1", 1)) == Target(host="::1", port=1)
    with pytest.raises(InvalidValue):
        as_target(("host", "port"))  # type: ignore[arg-type]


def test_pre_shared_keys_are_found_by_user(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice:0a0b\nbob:ff\n")
    assert read_psk(str(keys), "bob") == ("bob", b"\xff")
    assert read_psk(str(keys), "") == ("alice", b"\n\x0b")
    with pytest.raises(NotFound, match="carol"):
        read_psk(str(keys), "carol")
    keys.write_text("alice:xyz\n")
    with pytest.raises(InvalidValue, match="hexadecimal"):
        read_psk(str(keys), "alice")


def test_missing_certificates_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"ca-cert\.pem"):
        Tls.from_directory(tmp_path).context()
    (tmp_path / "ca-cert.pem").write_text("no certificate")
    with pytest.raises(InvalidValue):
        Tls.from_directory(tmp_path).context()


@pytest.mark.parametrize(
    "uri",
    [
        "nbd://../x",
        "nbd://\x9b31m/x",
        "nbd+unix:///x?socket=a%00b",
        "nbd+unix:///x?socket=" + "a" * 5000,
        "nbds://127.0.0.1:1/x?tls-certificates=" + "a" * 5000,
        "nbds://127.0.0.1:1/x?tls-certificates=a%00b",
    ],
)
def test_what_cannot_be_reached_is_said_in_one_line(uri: str) -> None:
    with pytest.raises(FiskError):
        NbdClient.connect(uri, timeout=5)


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000])
def test_key_files_that_cannot_be(path: str) -> None:
    with pytest.raises(FiskError):
        read_psk(path, "")
