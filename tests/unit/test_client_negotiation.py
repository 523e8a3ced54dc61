# SPDX-License-Identifier: Apache-2.0
"""The NBD client negotiating with servers that are old, odd or hostile."""

import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient, export_info, list_exports
from fisk_core.dataplane.client_handshake import MAX_REPLIES
from fisk_core.dataplane.client_tls import Tls
from fisk_core.errors import InvalidValue, NotFound, ProtocolError, Unsupported
from tests.nbd_script import FLAGS, ScriptServer, Wire

CONTEXT = "base:allocation"


def _connect(path: Path, script: Callable[[Wire], None], **options: object) -> NbdClient:
    with ScriptServer(path / "s", script) as server:
        return NbdClient.connect(server.path, timeout=0.7, **options)  # type: ignore[arg-type]


def test_everything_agreed(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.structured()
        wire.contexts(CONTEXT)
        wire.go(12345678, blocks=(512, 4096, 1 << 20))

    client = _connect(tmp_path, script, contexts=(CONTEXT, "x:y"))
    assert (client.size, client.info.minimum, client.info.maximum) == (12345678, 512, 1 << 20)
    assert client.contexts == (CONTEXT,)
    assert client.can_flush
    assert not client.read_only
    client.close()


def test_a_server_without_go_is_asked_by_export_name(tmp_path: Path) -> None:
    asked = []

    def script(wire: Wire) -> None:
        wire.greet(p.FLAG_FIXED_NEWSTYLE)
        wire.structured(agree=False)
        wire.expect(p.OPT_GO)
        wire.answer(p.OPT_GO, p.REP_ERR_UNSUP)
        asked.append(wire.expect(p.OPT_EXPORT_NAME))
        wire.send(p.EXPORT_NAME_REPLY.pack(4096, FLAGS), bytes(124))
        request = wire.request()
        wire.simple(request.cookie, 0, b"x" * request.length)

    with (
        ScriptServer(tmp_path / "s", script) as server,
        NbdClient.connect(server.path, export="änd", contexts=(CONTEXT,)) as client,
    ):
        assert client.read(0, 4096) == b"x" * 4096
        assert list(client.extents()) == [(0, 4096, 0)]
    assert asked == ["änd".encode()]


def test_a_server_before_fixed_newstyle(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(0)
        wire.expect(p.OPT_EXPORT_NAME)
        wire.send(p.EXPORT_NAME_REPLY.pack(4096, 0), bytes(124))

    client = _connect(tmp_path, script)
    assert client.size == 4096
    assert not client.can_flush
    client.close()


def _hello(data: bytes) -> Callable[[Wire], None]:
    return lambda wire: wire.send(data)


def _reply(option: int, kind: int, data: bytes = b"") -> Callable[[Wire], None]:
    """Answer the first option with this."""

    def script(wire: Wire) -> None:
        wire.greet()
        wire.option()
        wire.answer(option, kind, data)
        wire.read(1)

    return script


def _announce(length: int) -> Callable[[Wire], None]:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.option()
        wire.send(p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, p.OPT_GO, p.REP_INFO, length))
        wire.read(1)

    return script


def _go(size: int, blocks: tuple[int, int, int]) -> Callable[[Wire], None]:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.go(size, blocks=blocks)
        wire.read(1)

    return script


@pytest.mark.parametrize(
    "script",
    [
        _hello(b"SSH-2.0-OpenSSH_9.2p1 Debian-2"),
        _hello(p.HELLO.pack(p.INIT_MAGIC, 0x00420281861253, 0)),
        _hello(b"NBDMA"),
        _hello(b""),
        _reply(p.OPT_LIST, p.REP_ACK),
        _reply(p.OPT_GO, p.REP_ACK),
        _reply(p.OPT_GO, p.REP_SERVER),
        _reply(p.OPT_GO, p.REP_INFO, b"\0"),
        _reply(p.OPT_GO, p.REP_ERR_POLICY, b"\xff\xfe\x1b[31mgo away\n" * 100),
        _reply(p.OPT_GO, p.REP_FLAG_ERROR | 4711),
        _announce(0xFFFFFFFF),
        _announce(100),
        _go(1 << 63, (1, 4096, 1 << 20)),
        _go(4096, (0, 4096, 1 << 20)),
        _go(4096, (3, 4096, 1 << 20)),
        _go(4096, (1 << 20, 1 << 20, 1 << 20)),
        _go(4096, (4096, 4096, 512)),
        lambda wire: wire.read(1 << 30),
    ],
)
def test_hostile_negotiation_ends_in_a_clear_error(tmp_path: Path, script: Callable[[Wire], None]) -> None:
    begun = time.monotonic()
    with pytest.raises(ProtocolError) as caught:
        _connect(tmp_path, script, structured=False)
    assert time.monotonic() - begun < 5
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_server_that_drips_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        for byte in p.HELLO.pack(p.INIT_MAGIC, p.OPTION_MAGIC, 1):
            wire.send(bytes([byte]))
            time.sleep(0.2)

    with pytest.raises(ProtocolError, match=r"within 0\.7 s"):
        _connect(tmp_path, script)


@pytest.mark.parametrize(
    ("kind", "error"), [(p.REP_ERR_UNKNOWN, NotFound), (p.REP_ERR_TLS_REQD, ProtocolError)]
)
def test_refusals_are_typed(tmp_path: Path, kind: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="because"):
        _connect(tmp_path, _reply(p.OPT_GO, kind, b"because"), structured=False)


def test_more_contexts_than_asked_for_are_refused(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.structured()
        wire.contexts(*(f"a:{number}" for number in range(1000)))

    with pytest.raises(ProtocolError, match="context"):
        _connect(tmp_path, script, contexts=(CONTEXT,))


def test_names_are_bounded_on_our_side_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="too long"):
        _connect(tmp_path, lambda wire: wire.greet(), export="x" * 5000, structured=False)


def test_listing(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.expect(p.OPT_LIST)
        wire.answer(p.OPT_LIST, p.REP_SERVER, b"\0\0\0\3oneThe first")
        wire.answer(p.OPT_LIST, p.REP_SERVER, b"\0\0\0\0")
        wire.answer(p.OPT_LIST)
        wire.expect(p.OPT_ABORT)

    with ScriptServer(tmp_path / "s", script) as server:
        names = list_exports(server.path)
    assert [(each.name, each.description) for each in names] == [("one", "The first"), ("", "")]


@pytest.mark.parametrize("data", [b"", b"\0\0\0\5abc", b"\0\0\0\1\xff"])
def test_malformed_lists(tmp_path: Path, data: bytes) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.expect(p.OPT_LIST)
        wire.answer(p.OPT_LIST, p.REP_SERVER, data)

    with ScriptServer(tmp_path / "s", script) as server, pytest.raises(ProtocolError):
        list_exports(server.path)


@pytest.mark.parametrize("size", [10, 4000])
def test_a_list_without_end_is_cut_off(tmp_path: Path, size: int) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.expect(p.OPT_LIST)
        for _ in range(MAX_REPLIES + 1):
            wire.answer(p.OPT_LIST, p.REP_SERVER, size.to_bytes(4, "big") + b"x" * size)

    with ScriptServer(tmp_path / "s", script) as server, pytest.raises(ProtocolError, match="end"):
        list_exports(server.path)


def test_info_leaves_negotiation_politely(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.expect(p.OPT_INFO)
        wire.answer(p.OPT_INFO, p.REP_INFO, p.INFO_EXPORT_DATA.pack(p.INFO_EXPORT, 4096, 1))
        wire.answer(p.OPT_INFO, p.REP_INFO, b"\0\2a description")
        wire.answer(p.OPT_INFO)
        wire.expect(p.OPT_ABORT)

    with ScriptServer(tmp_path / "s", script) as server:
        info = export_info(server.path)
    assert (info.size, info.description) == (4096, "a description")


@pytest.mark.parametrize("kind", [p.REP_ERR_UNSUP, p.REP_ERR_POLICY])
def test_tls_asked_for_is_never_given_up(tmp_path: Path, kind: int) -> None:
    with pytest.raises(ProtocolError, match="TLS was asked for"):
        _connect(tmp_path, _reply(p.OPT_STARTTLS, kind), tls=Tls())


def test_plain_bytes_before_tls_are_refused(tmp_path: Path) -> None:
    """Whoever sits between could put words into the server's mouth with them."""

    def script(wire: Wire) -> None:
        wire.greet()
        wire.expect(p.OPT_STARTTLS)
        ack = p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, p.OPT_STARTTLS, p.REP_ACK, 0)
        wire.send(ack + p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, p.OPT_GO, p.REP_ACK, 0))
        wire.read(1)

    with pytest.raises(ProtocolError, match="between agreeing on TLS"):
        _connect(tmp_path, script, tls=Tls())


def test_a_server_that_speaks_no_tls_after_agreeing(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.expect(p.OPT_STARTTLS)
        wire.answer(p.OPT_STARTTLS)
        wire.read(1)
        wire.send(b"this is not a TLS record at all")

    with pytest.raises(ProtocolError, match="TLS"):
        _connect(tmp_path, script, tls=Tls())


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        NbdClient.connect(tmp_path / "nothing")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else can listen there, and we do not
        port = taken.getsockname()[1]
        with pytest.raises(NotFound, match=rf"nbd://127\.0\.0\.1:{port}/"):
            NbdClient.connect(("127.0.0.1", port))


def test_psk_needs_a_newer_python(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("u:00\n")
    tls = Tls(psk_file=str(tmp_path / "keys"))
    if hasattr(ssl.SSLContext, "set_psk_client_callback"):
        assert tls.context().verify_mode is ssl.CERT_NONE
    else:
        with pytest.raises(Unsupported, match=r"3\.13"):
            tls.context()
