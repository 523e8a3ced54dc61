# SPDX-License-Identifier: Apache-2.0
"""Negotiation with a real worker: every option, right and wrong, as the specification wants it answered."""

import random
import socket
import time

import pytest

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.server import ServeOptions
from tests.disks import make_pool, make_spec
from tests.servers import Raw, Served, info_request, patched_worker, queries, text

SIZE = 4 << 20
FLAGS = (
    p.TFLAG_HAS_FLAGS | p.TFLAG_SEND_FLUSH | p.TFLAG_SEND_FUA | p.TFLAG_SEND_TRIM | p.TFLAG_SEND_WRITE_ZEROES
    | p.TFLAG_CAN_MULTI_CONN | p.TFLAG_SEND_CACHE | p.TFLAG_SEND_FAST_ZERO
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("o")
    with Served(make_spec(make_pool(folder / "pool"), SIZE), folder) as served:
        yield served


@pytest.fixture
def raw(served):
    with served.raw(go=False) as raw:
        yield raw


def error_of(replies):
    (kind, data), *more = replies
    assert not more
    assert data.decode(), "an error says why"
    return kind


def test_hello(raw):
    assert raw.hello == (p.INIT_MAGIC, p.OPTION_MAGIC, p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES)


@pytest.mark.parametrize("zeroes", [0, 124])
@pytest.mark.parametrize("name", ["", "test"])
def test_export_name(served, zeroes, name):
    flags = p.FLAG_FIXED_NEWSTYLE | (0 if zeroes else p.FLAG_NO_ZEROES)
    with served.raw(go=False, flags=flags) as raw:
        raw.put_option(p.OPT_EXPORT_NAME, name.encode())
        assert p.EXPORT_NAME_REPLY.unpack(raw.read(p.EXPORT_NAME_REPLY.size)) == (SIZE, FLAGS)
        assert raw.read(zeroes) == bytes(zeroes)
        assert raw.works()


@pytest.mark.parametrize("data", [b"other", b"x" * (70 << 10)])
def test_an_unknown_export_name_ends_the_connection(raw, data):
    raw.put_option(p.OPT_EXPORT_NAME, data)
    assert raw.at_end()


def parsed(replies):
    """Give (size and flags, block sizes, further information) of an INFO's replies."""
    assert replies[-1] == (p.REP_ACK, b"")
    found = {}
    for kind, data in replies[:-1]:
        assert kind == p.REP_INFO
        number = int.from_bytes(data[:2], "big")
        assert number not in found
        found[number] = data
    export = p.INFO_EXPORT_DATA.unpack(found.pop(p.INFO_EXPORT))[1:]
    return export, p.INFO_BLOCK_SIZE_DATA.unpack(found.pop(p.INFO_BLOCK_SIZE))[1:], found


@pytest.mark.parametrize("option", [p.OPT_INFO, p.OPT_GO])
@pytest.mark.parametrize("name", ["", "test"])
def test_info_and_go(raw, option, name):
    export, blocks, more = parsed(raw.option(option, info_request(name)))
    assert export == (SIZE, FLAGS)
    assert blocks == (1, 4096, p.MAX_REQUEST)
    assert more == {}
    if option == p.OPT_INFO:
        assert parsed(raw.go())[0] == (SIZE, FLAGS)
    assert raw.works()


def test_info_gives_each_kind_asked_for_once(raw):
    wanted = (p.INFO_NAME, p.INFO_DESCRIPTION, p.INFO_NAME, p.INFO_BLOCK_SIZE, 77)
    _, _, more = parsed(raw.option(p.OPT_INFO, info_request("", *wanted)))
    assert set(more) == {p.INFO_NAME, p.INFO_DESCRIPTION}
    assert more[p.INFO_NAME][2:] == b"test"
    assert b"live" in more[p.INFO_DESCRIPTION]


def test_df_is_offered_with_structured_replies(raw):
    assert raw.option(p.OPT_STRUCTURED_REPLY) == [(p.REP_ACK, b"")]
    assert parsed(raw.go())[0] == (SIZE, FLAGS | p.TFLAG_SEND_DF)


@pytest.mark.parametrize("option", [p.OPT_INFO, p.OPT_GO, p.OPT_LIST_META_CONTEXT])
def test_unknown_exports_are_refused(raw, option):
    data = queries("other") if option == p.OPT_LIST_META_CONTEXT else info_request("other")
    assert error_of(raw.option(option, data)) == p.REP_ERR_UNKNOWN
    assert parsed(raw.go())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", b"\0\0\0\0", b"\0\0\0\0\0", info_request("") + b"x", info_request("test", 3)[:-1],
        b"\xff\xff\xff\xff" + bytes(20), text("x" * 4097) + b"\0\0", text("x") + b"\xff\xff" + bytes(100),
    ],
)  # fmt: skip
@pytest.mark.parametrize("option", [p.OPT_INFO, p.OPT_GO])
def test_malformed_requests_for_information(raw, option, data):
    assert error_of(raw.option(option, data)) == p.REP_ERR_INVALID
    assert parsed(raw.go())


def test_list(raw):
    assert raw.option(p.OPT_LIST) == [(p.REP_SERVER, text("test")), (p.REP_ACK, b"")]
    assert error_of(raw.option(p.OPT_LIST, b"x")) == p.REP_ERR_INVALID


def test_unlisted_and_renamed_exports(tmp_path):
    options = ServeOptions(listed=False, export="secret")
    with Served(make_spec(make_pool(tmp_path / "pool"), SIZE), tmp_path, options) as served:
        with served.raw(go=False) as raw:
            assert error_of(raw.option(p.OPT_LIST)) == p.REP_ERR_POLICY
            assert error_of(raw.go("test")) == p.REP_ERR_UNKNOWN
            assert parsed(raw.go("secret"))
        with served.connect() as client:
            assert client.size == SIZE


def test_abort(raw):
    assert raw.option(p.OPT_ABORT) == [(p.REP_ACK, b"")]
    assert raw.at_end()


def test_abort_with_data(raw):
    assert raw.option(p.OPT_ABORT, b"whatever") == [(p.REP_ACK, b"")]
    assert raw.at_end()


def test_starttls_is_refused_without_tls(raw):
    assert error_of(raw.option(p.OPT_STARTTLS, b"x")) == p.REP_ERR_INVALID
    assert error_of(raw.option(p.OPT_STARTTLS)) == p.REP_ERR_POLICY
    assert parsed(raw.go())


@pytest.mark.parametrize("option", [0, 4, p.OPT_EXTENDED_HEADERS, 12, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("data", [b"", b"x" * 1000])
def test_unknown_options(raw, option, data):
    assert error_of(raw.option(option, data)) == p.REP_ERR_UNSUP
    assert parsed(raw.go())


@pytest.mark.parametrize("option", [p.OPT_LIST, p.OPT_GO, p.OPT_SET_META_CONTEXT, 99])
def test_oversize_options_are_read_and_refused(raw, option):
    assert error_of(raw.option(option, bytes(300_000))) == p.REP_ERR_TOO_BIG
    assert parsed(raw.go())


def test_the_longest_option_that_is_looked_at(raw):
    assert error_of(raw.option(p.OPT_LIST, bytes(64 << 10))) == p.REP_ERR_INVALID
    assert error_of(raw.option(p.OPT_LIST, bytes((64 << 10) + 1))) == p.REP_ERR_TOO_BIG


def test_structured_reply_takes_no_data_and_may_be_repeated(raw):
    assert error_of(raw.option(p.OPT_STRUCTURED_REPLY, b"x")) == p.REP_ERR_INVALID
    for _ in range(2):
        assert raw.option(p.OPT_STRUCTURED_REPLY) == [(p.REP_ACK, b"")]
    assert parsed(raw.go())[0][1] & p.TFLAG_SEND_DF


# Metadata contexts


def names(replies):
    assert replies[-1] == (p.REP_ACK, b"")
    return [data[4:].decode() for _, data in replies[:-1]]


BOTH = [p.CONTEXT_ALLOCATION, p.CONTEXT_DEPTH]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ([], BOTH), (["base:"], BOTH[:1]), (["qemu:"], BOTH[1:]), (["base:allocation"], BOTH[:1]),
        (["fisk:", "base:allocation"], BOTH[:1]), (["base:allocatio"], []), (["other:thing"], []),
        (["base"], []),
        (["base:allocation", "base:"], BOTH[:1]),
    ],
)  # fmt: skip
def test_list_meta_context(raw, wanted, found):
    assert names(raw.option(p.OPT_LIST_META_CONTEXT, queries("test", *wanted))) == found


def test_set_meta_context_wants_structured_replies_first(raw):
    data = queries("", "base:allocation")
    assert error_of(raw.option(p.OPT_SET_META_CONTEXT, data)) == p.REP_ERR_INVALID


def test_the_last_set_meta_context_counts(served):
    with served.raw(structured=True, go=False) as raw:
        for wanted in (BOTH, BOTH[1:]):
            assert names(raw.option(p.OPT_SET_META_CONTEXT, queries("", *wanted))) == wanted
        raw.go()
        assert len(raw.status(0, 4096)) == 1


@pytest.mark.parametrize(
    "second", [queries(""), queries("", "base:"), queries("", "no:such"), queries("no"), b"x"]
)
def test_a_second_set_that_gives_nothing_leaves_none(served, second):
    with served.raw(structured=True, contexts=tuple(BOTH), go=False) as raw:
        raw.option(p.OPT_SET_META_CONTEXT, second)
        raw.go()
        assert raw.call(p.CMD_BLOCK_STATUS, 0, 4096).error == p.EINVAL
        assert raw.works()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0\0\0", b"\0\0\0\0", text("test"), text("test") + b"\0\0\0\1", queries("", "a") + b"x",
        queries("", "a")[:-1], text("x" * 5000) + bytes(4), queries("", "x" * 5000), queries("", b"\xff"),
        text("") + b"\xff\xff\xff\xff" + text("a"),
    ],
)  # fmt: skip
def test_malformed_metadata_queries(served, data):
    with served.raw(structured=True, go=False) as raw:
        for option in (p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT):
            assert error_of(raw.option(option, data)) == p.REP_ERR_INVALID
        assert parsed(raw.go())


@pytest.mark.parametrize(
    "name",
    ["", "no-such-id", "../maps/x", "../../pool.json", "a/b", "\0", "x\0y", "x" * 3000, ".",
     "00000000-0000-0000-0000-000000000000"],
)  # fmt: skip
def test_diff_contexts_that_cannot_be_had_are_not_offered(served, name):
    with served.raw(structured=True, go=False) as raw:
        for option in (p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT):
            assert names(raw.option(option, queries("", p.CONTEXT_DIFF + name))) == []
        assert parsed(raw.go())


# Clients that break the rules


def test_unknown_client_flags_end_the_connection(served):
    with served.raw(go=False, greet=False) as raw:
        raw.sock.sendall(p.CLIENT_FLAGS.pack(1 << 7))
        assert raw.at_end()


def test_an_option_without_its_magic_ends_the_connection(raw):
    raw.put_option(p.OPT_LIST, magic=1)
    assert raw.at_end()


def test_options_in_one_piece_and_byte_by_byte(served):
    one = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STRUCTURED_REPLY, 0)
    info = info_request("test")
    data = one + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_GO, len(info)) + info
    read = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 9, 0, 512)
    for pieces in ([data + read], [bytes([byte]) for byte in data + read]):
        with served.raw(go=False) as raw:
            for piece in pieces:
                raw.sock.sendall(piece)
            assert raw.option_reply(p.OPT_STRUCTURED_REPLY) == (p.REP_ACK, b"")
            while raw.option_reply(p.OPT_GO)[0] != p.REP_ACK:
                pass
            raw.lengths[9] = (0, 512)
            assert raw.reply().data == bytes(512)


def test_random_bytes_never_stop_the_worker(served):
    chance = random.Random(5)
    for _ in range(150):
        with served.raw(go=False, greet=chance.random() < 0.7) as raw:
            raw.sock.settimeout(0.002)
            data = chance.randbytes(chance.randrange(1, 300))
            if chance.random() < 0.6:
                data = p.OPTION.pack(p.OPTION_MAGIC, chance.randrange(1, 13), chance.randrange(200)) + data
            try:
                raw.sock.sendall(data)
                raw.sock.recv(1000)
            except (TimeoutError, ConnectionError):
                pass
    with served.raw() as raw:
        assert raw.works()


def test_half_open_connections_stop_nobody(served):
    halves = [served.raw(go=False, greet=False) for _ in range(20)]
    halves += [Raw(served.path, go=False) for _ in range(20)]
    for raw in halves[:10]:
        raw.sock.shutdown(socket.SHUT_WR)
        assert raw.at_end()
    with served.raw() as raw:
        assert raw.works()
    for raw in halves:
        raw.close()


def test_clients_that_leave_during_negotiation_leave_nothing_behind(served):
    def knock(count):
        for _ in range(count):
            served.raw(go=False, greet=False).close()
        with served.raw() as raw:
            assert raw.works()

    knock(100)
    before = served.resident()
    knock(600)
    assert served.resident() - before < 8 << 20
    assert served.control("status")["connections"] <= 1


def test_a_negotiation_that_takes_too_long_is_ended(tmp_path):
    spec = make_spec(make_pool(tmp_path / "pool"), SIZE)
    patch = "import fisk_core.dataplane.connection as c\nc.HANDSHAKE_SECONDS = 0.3"
    path = tmp_path / "nbd"
    with patched_worker(spec, path, patch), Raw(str(path)) as good, Raw(str(path), go=False) as idle:
        started = time.monotonic()
        assert idle.at_end()
        assert 0.1 < time.monotonic() - started < 5
        assert good.works()


def test_connections_beyond_the_limit_are_turned_away(tmp_path):
    spec = make_spec(make_pool(tmp_path / "pool"), SIZE)
    patch = "import fisk_core.dataplane.server as s\ns.MAX_CONNECTIONS = 3"
    path = tmp_path / "nbd"
    with patched_worker(spec, path, patch):
        clients = [Raw(str(path)) for _ in range(3)]
        with pytest.raises((EOFError, ConnectionError)):
            Raw(str(path))
        assert all(client.works() for client in clients)
        clients.pop().close()
        for _ in range(100):
            try:
                clients.append(Raw(str(path)))
                break
            except (EOFError, ConnectionError):
                time.sleep(0.01)
        assert clients[-1].works()
        for client in clients:
            client.close()
