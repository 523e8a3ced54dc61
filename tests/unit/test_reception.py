# SPDX-License-Identifier: Apache-2.0
"""Clients at the front door: what they say there, and what the worker hears of it."""

import base64
import logging
import socket
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.dataplane import acceptor as acceptors
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane import reception
from fisk_core.dataplane.negotiation import MAX_OPTION
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import TlsOptions
from tests.acceptors import TOKEN
from tests.disks import make_pool, make_spec
from tests.hosted import Hosted, HostedAcceptor
from tests.nbd_servers import make_certificates
from tests.servers import info_request, queries
from tests.waiting import PATIENCE, until

SIZE = 1 << 20
FLAGS = p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("w")
    spec = make_spec(make_pool(folder / "pool"), SIZE)
    with Hosted(spec, folder, ServeOptions(export=TOKEN)) as served:
        with served.raw() as raw:
            assert raw.write(0, b"found" + bytes(507)) == 0
        yield served


@pytest.fixture(scope="module")
def door(served, tmp_path_factory):
    door = HostedAcceptor(tmp_path_factory.mktemp("a"))
    door.admit(served)
    yield door
    door.close()


def option(kind, data=b""):
    return p.OPTION.pack(p.OPTION_MAGIC, kind, len(data)) + data


NAMES = st.sampled_from([TOKEN, TOKEN, TOKEN, "no", TOKEN + "x"])
OPTIONS = st.one_of(
    st.builds(
        option, st.sampled_from([p.OPT_STRUCTURED_REPLY, p.OPT_STARTTLS, 99]), st.sampled_from([b"", b"x"])
    ),
    st.builds(
        lambda kind, name, wanted: option(kind, info_request(name, *wanted)),
        st.just(p.OPT_INFO),
        NAMES,
        st.lists(st.sampled_from([p.INFO_NAME, p.INFO_BLOCK_SIZE, 77]), max_size=2),
    ),
    st.builds(
        lambda kind, name, wanted: option(kind, queries(name, *wanted)),
        st.sampled_from([p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT]),
        NAMES,
        st.lists(st.sampled_from([p.CONTEXT_ALLOCATION, p.CONTEXT_DEPTH, "base:", "no:"]), max_size=2),
    ),
    st.builds(option, st.just(p.OPT_GO), st.one_of(st.binary(max_size=8), st.just(info_request("no")))),
    st.just(option(99, bytes(MAX_OPTION + 1))),
)
ENDS = [option(p.OPT_GO, info_request(TOKEN)), option(p.OPT_EXPORT_NAME, TOKEN.encode())]
REQUESTS = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 7, 0, 512) + p.REQUEST.pack(
    p.REQUEST_MAGIC, 0, p.CMD_DISC, 8, 0, 0
)


def say(sock, said, cuts):
    """Send everything, cut to pieces; gives all that is answered up to the end."""
    heard, at = bytearray(), 0
    with sock:
        sock.settimeout(PATIENCE)
        for cut in [*sorted(cut % len(said) for cut in cuts), len(said)]:
            sock.sendall(said[at:cut])
            at = cut
        try:
            while more := sock.recv(1 << 16):
                heard += more
        except ConnectionResetError:
            pass
    return bytes(heard)


@given(
    flags=st.sampled_from([FLAGS, FLAGS, p.FLAG_FIXED_NEWSTYLE, 0]),
    options=st.lists(OPTIONS, max_size=5),
    end=st.sampled_from(ENDS),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=4),
)
@settings(max_examples=120, deadline=None)
def test_the_door_and_the_worker_together_say_what_the_worker_says_alone(
    served, door, flags, options, end, cuts
):
    said = p.CLIENT_FLAGS.pack(flags) + b"".join(options) + end + REQUESTS
    with socket.socket(socket.AF_UNIX) as direct:
        direct.connect(served.path)
        wanted = say(direct, said, cuts)
    found = say(socket.create_connection(door.acceptor.address, PATIENCE), said, cuts)
    assert found == wanted


def test_a_reader_may_only_read(served, door):
    door.admit(served, "reader", read_only=True)
    with door.raw(name="reader") as raw:
        assert raw.get(0, 5) == b"found"
        assert raw.write(0, b"x") == p.EPERM
    with door.raw(structured=True, name=TOKEN) as raw:
        assert raw.write(512, b"x") == 0


def test_what_a_worker_is_told(served, door, monkeypatch):
    """Another version may be there: the request is a format of its own."""
    told = []
    monkeypatch.setattr(reception, "Passing", lambda *arguments: told.append(arguments[1:]))
    with door.raw(structured=True) as raw:
        raw.put_option(p.OPT_GO, info_request(TOKEN, p.INFO_NAME))
        until(lambda: told)
    [(path, request, fd, done)] = told
    received = base64.b64decode(request.pop("received"))
    wanted = (
        p.CLIENT_FLAGS.pack(FLAGS) + option(p.OPT_STRUCTURED_REPLY) + option(p.OPT_GO, info_request(TOKEN, 1))
    )
    assert (path, received) == (served.control_path, wanted)
    assert request == {"op": "connection", "name": TOKEN, "read_only": False, "said": 18 + 20}
    socket.socket(fileno=fd).close()
    [client] = door.acceptor._receptions
    passed = door.acceptor.passed
    door.acceptor.loop.from_thread(client.close)
    until(lambda: not door.acceptor._receptions)
    door.acceptor.loop.from_thread(lambda: done(None))  # who ended meanwhile ends no second time
    until(lambda: door.acceptor.passed == passed + 1)


def test_so_many_options_and_no_more(door):
    with door.raw() as raw:
        for _ in range(reception.MAX_OPTIONS):
            assert raw.option(p.OPT_LIST)[0][0] == p.REP_ERR_POLICY
        raw.put_option(p.OPT_LIST)
        assert raw.at_end()


def test_a_silent_client_is_not_waited_for(door, monkeypatch):
    monkeypatch.setattr(reception, "HANDSHAKE_SECONDS", 0.01)
    with door.raw() as raw:
        assert raw.at_end()
    reception._give_up(None)  # one that is gone when its time is over


def test_a_client_that_takes_no_answers_is_not_heard_either(door):
    """What is kept for it is the answer to one option, and no more of its own than one option."""
    ours, theirs = socket.socketpair()  # whose buffer can be far smaller than TCP's
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)
    door.acceptor.loop.from_thread(lambda: door.acceptor._accept(theirs))
    said = p.CLIENT_FLAGS.pack(FLAGS) + option(99) * reception.MAX_OPTIONS + option(p.OPT_ABORT)
    with ours:
        ours.setblocking(False)
        assert ours.send(said) == len(said)
        until(lambda: any(each._events == reception.OUT for each in door.acceptor._receptions))
        [client] = door.acceptor._receptions
        asked = client._inquiry._options
        assert asked < reception.MAX_OPTIONS, "the rest of them wait"
        assert len(client._out) == p.OPTION_REPLY.size + len(b"unknown option")
        ours.setblocking(True)
        ours.settimeout(PATIENCE)
        heard = bytearray()
        while more := ours.recv(1 << 16):
            heard += more
    answer = p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, 99, p.REP_ERR_UNSUP, 14) + b"unknown option"
    assert heard == p.HELLO.pack(p.INIT_MAGIC, p.OPTION_MAGIC, FLAGS) + answer * reception.MAX_OPTIONS


def test_the_oldest_who_says_nothing_gives_way(door, monkeypatch):
    monkeypatch.setattr(acceptors, "MAX_HALF_OPEN", 3)
    clients = [door.raw() for _ in range(4)]
    assert clients[0].at_end()
    assert clients[3].go(TOKEN)[-1][0] == p.REP_ACK
    for client in clients:
        client.close()
    until(lambda: not door.acceptor._receptions)


def test_a_worker_that_takes_nobody(served, door, expect_logs):
    expect_logs("a client could not be passed on: going away")
    passed = door.acceptor.passed
    served.server.refusing = "going away"
    try:
        with door.raw() as raw:
            raw.put_option(p.OPT_GO, info_request(TOKEN))
            assert raw.at_end()
    finally:
        served.server.refusing = None
    assert door.acceptor.passed == passed
    with door.raw(name=TOKEN) as raw:
        assert raw.works()
        until(lambda: door.acceptor.passed == passed + 1)


def test_no_descriptor_left_for_a_client(door, monkeypatch, expect_logs):
    expect_logs("a client cannot be passed on: .*too many")

    def dup(_):
        raise OSError(24, "too many")

    with door.raw() as raw:
        monkeypatch.setattr(reception.os, "dup", dup)
        raw.put_option(p.OPT_GO, info_request(TOKEN))
        assert raw.at_end()


def test_a_client_that_ends_while_it_is_passed_on(served, door):
    """The worker notices; the acceptor has nothing left of it."""
    for _ in range(3):
        with door.raw() as raw:
            raw.put_option(p.OPT_GO, info_request(TOKEN))
    until(lambda: not door.acceptor._receptions)


# Under TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def secured(served, certificates, tmp_path_factory):
    door = HostedAcceptor(tmp_path_factory.mktemp("s"), TlsOptions(directory=str(certificates), verify=False))
    door.admit(served)
    yield door
    door.close()


def secure(raw, certificates):
    """Go on under TLS."""
    assert raw.option(p.OPT_STARTTLS) == [(p.REP_ACK, b"")]
    context = ssl.create_default_context(cafile=certificates / "ca-cert.pem")
    raw.sock = context.wrap_socket(raw.sock, server_hostname="localhost")


def test_a_client_under_tls_is_relayed(secured, certificates):
    before = secured.acceptor.passed
    with secured.raw(structured=False) as raw:
        assert raw.go(TOKEN)[-1][0] == p.REP_ERR_TLS_REQD
        secure(raw, certificates)
        assert raw.option(p.OPT_STARTTLS)[0][0] == p.REP_ERR_INVALID
        assert raw.option(p.OPT_STRUCTURED_REPLY) == [(p.REP_ACK, b"")]
        assert raw.go(TOKEN)[-1][0] == p.REP_ACK
        assert raw.get(0, 5) == b"found"
        until(lambda: not secured.acceptor._receptions)
        assert secured.acceptor.passed == before + 1
    until(lambda: not secured.acceptor._relays)


def test_a_client_that_is_gone_when_tls_begins_leaves_nothing(secured, certificates):
    handlers = secured.acceptor.loop._handlers
    before = len(handlers)
    for _ in range(5):
        with secured.raw() as raw:
            raw.put_option(p.OPT_STARTTLS)
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    with secured.raw() as raw:
        secure(raw, certificates)
        assert raw.option(p.OPT_LIST)[0][0] == p.REP_ERR_POLICY
    until(lambda: not secured.acceptor._receptions)
    assert len(handlers) == before


def test_data_behind_starttls_is_not_taken_for_protected(secured, caplog):
    caplog.set_level(logging.DEBUG, "fisk_core")
    with secured.raw() as raw:
        raw.sock.sendall(option(p.OPT_STARTTLS) + option(p.OPT_LIST))
        assert raw.option_reply(p.OPT_STARTTLS) == (p.REP_ACK, b"")
        assert raw.at_end()
    until(lambda: not secured.acceptor._receptions)
    assert "client refused: data behind STARTTLS" in caplog.text


def test_more_clients_under_tls_than_are_relayed(secured, certificates, monkeypatch, expect_logs):
    expect_logs("as many clients under TLS as can be served")
    monkeypatch.setattr(acceptors, "MAX_RELAYS", 0)
    with secured.raw() as raw:
        secure(raw, certificates)
        raw.put_option(p.OPT_GO, info_request(TOKEN))
        with pytest.raises((EOFError, ssl.SSLError, ConnectionError)):
            raw.option_reply(p.OPT_GO)


def test_a_worker_that_takes_nobody_under_tls(served, secured, certificates, expect_logs):
    expect_logs("a client could not be passed on: going away")
    served.server.refusing = "going away"
    try:
        with secured.raw() as raw:
            secure(raw, certificates)
            raw.put_option(p.OPT_GO, info_request(TOKEN))
            with pytest.raises((EOFError, ssl.SSLError, ConnectionError)):
                raw.option_reply(p.OPT_GO)
    finally:
        served.server.refusing = None
    assert not secured.acceptor._relays
