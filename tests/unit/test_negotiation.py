# SPDX-License-Identifier: Apache-2.0
"""The server's side of negotiation without a socket: options no client of ours would send, in any order."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.negotiation import (
    MAX_OPTION,
    Agreement,
    ExportInfo,
    Negotiation,
    Presented,
    ReadOnly,
)
from fisk_core.errors import ProtocolError
from tests.servers import info_request, queries

FLAGS = p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES


class Export(ExportInfo):
    name, description, size, block_size, listed = "disk", "a disk", 12345, 512, True

    def flags(self):
        return p.TFLAG_HAS_FLAGS

    def contexts(self, query):
        return [name for name in ("a:one", "a:two", "b:one") if name.startswith(query)]

    def context_id(self, name):
        return {"a:one": 1, "a:two": 2, "b:one": 3}[name]


class Unfinished(Exception):
    """The server wants more bytes than there are."""


class Talk:
    """Feeds a negotiation and keeps what it says."""

    def __init__(self, tls=None, flags=FLAGS):
        self.said = b""
        self.steps = Negotiation(Export(), self.say, tls).run()
        self.wanted = next(self.steps)
        self.agreed = None
        assert p.HELLO.unpack(self.take()) == (p.INIT_MAGIC, p.OPTION_MAGIC, FLAGS)
        self.feed(p.CLIENT_FLAGS.pack(flags))

    def say(self, data):
        self.said += data

    def take(self):
        said, self.said = self.said, b""
        return said

    def feed(self, data):
        """Give bytes as they are wanted; raises when the server hangs up."""
        while data and self.agreed is None:
            assert 0 < self.wanted <= MAX_OPTION
            if len(data) < self.wanted:
                raise Unfinished
            part, data = data[: self.wanted], data[self.wanted :]
            try:
                self.wanted = self.steps.send(part)
            except StopIteration as stop:
                self.agreed = stop.value

    def ask(self, option, data=b""):
        """Send an option; gives (kind, data) of each reply, which must be well formed."""
        self.feed(p.OPTION.pack(p.OPTION_MAGIC, option, len(data)) + data)
        said, replies = self.take(), []
        while said:
            magic, answered, kind, length = p.OPTION_REPLY.unpack_from(said)
            assert (magic, answered) == (p.OPTION_REPLY_MAGIC, option)
            replies.append((kind, said[20 : 20 + length]))
            assert len(said) >= 20 + length
            said = said[20 + length :]
        return replies


KNOWN = [2, 3, 5, 6, 7, 8, 9, 10, 11, 99]
DATA = st.one_of(
    st.just(b""),
    st.binary(max_size=60),
    st.builds(lambda name, *kinds: info_request(name, *kinds), st.sampled_from(["", "disk", "no"])),
    st.builds(
        lambda name, wanted: queries(name, *wanted),
        st.sampled_from(["", "disk", "no"]),
        st.lists(st.sampled_from(["", "a:", "a:one", "b:one", "c"]), max_size=4),
    ),
    st.just(bytes(MAX_OPTION + 5)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KNOWN), DATA), max_size=12))
def test_every_option_gets_one_final_answer(options):
    talk = Talk()
    for option, data in options:
        if option == p.OPT_ABORT:
            with pytest.raises(ProtocolError):
                talk.ask(option, data)
            return
        replies = talk.ask(option, data)
        final = [kind for kind, _ in replies if kind == p.REP_ACK or kind & p.REP_FLAG_ERROR]
        assert final == [replies[-1][0]]
        if talk.agreed:
            assert option == p.OPT_GO
            assert final == [p.REP_ACK]
            return
        assert (option, final) != (p.OPT_GO, [p.REP_ACK])


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=MAX_OPTION // 512, max_size=400))
def test_any_bytes_end_it_or_are_answered(data):
    talk = Talk()
    try:
        talk.feed(data)
    except ProtocolError:
        return
    except Unfinished:
        assert talk.agreed is None


@pytest.mark.parametrize("flags", [0, p.FLAG_FIXED_NEWSTYLE, p.FLAG_NO_ZEROES, FLAGS])
def test_export_name(flags):
    talk = Talk(flags=flags)
    talk.feed(p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 4) + b"disk")
    said = talk.take()
    assert p.EXPORT_NAME_REPLY.unpack_from(said) == (12345, p.TFLAG_HAS_FLAGS)
    assert len(said) == 10 + (0 if flags & p.FLAG_NO_ZEROES else 124)
    assert not talk.agreed.structured


@pytest.mark.parametrize("flags", [4, 1 << 31, 0xFFFFFFFF])
def test_unknown_client_flags(flags):
    with pytest.raises(ProtocolError):
        Talk(flags=flags)


def test_what_was_agreed():
    talk = Talk()
    talk.ask(p.OPT_STRUCTURED_REPLY)
    replies = talk.ask(p.OPT_SET_META_CONTEXT, queries("disk", "b:one", "a:", "a:two", "nothing"))
    assert replies == [
        (p.REP_META_CONTEXT, b"\0\0\0\x03b:one"), (p.REP_META_CONTEXT, b"\0\0\0\x02a:two"), (p.REP_ACK, b"")
    ]  # fmt: skip
    talk.ask(p.OPT_GO, info_request("disk"))
    assert talk.agreed.structured
    assert talk.agreed.contexts == [(3, "b:one"), (2, "a:two")]
    assert not talk.agreed.tls


def test_listing_contexts_gives_no_ids():
    talk = Talk()
    replies = talk.ask(p.OPT_LIST_META_CONTEXT, queries("", "a:"))
    assert replies == [
        (p.REP_META_CONTEXT, b"\0\0\0\0a:one"),
        (p.REP_META_CONTEXT, b"\0\0\0\0a:two"),
        (p.REP_ACK, b""),
    ]
    assert len(talk.ask(p.OPT_LIST_META_CONTEXT, queries(""))) == 4


def test_tls_comes_first_and_forgets_what_was_agreed():
    upgrades = []
    talk = Talk(tls=lambda: upgrades.append(talk.take()), flags=p.FLAG_FIXED_NEWSTYLE)
    for option in (p.OPT_LIST, p.OPT_STRUCTURED_REPLY, p.OPT_GO, 99):
        assert talk.ask(option)[0][0] == p.REP_ERR_TLS_REQD
    assert talk.ask(p.OPT_STARTTLS, b"x")[0][0] == p.REP_ERR_INVALID
    assert talk.ask(p.OPT_STARTTLS) == []
    assert upgrades[0].endswith(p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, p.OPT_STARTTLS, p.REP_ACK, 0))
    assert talk.ask(p.OPT_STARTTLS)[0][0] == p.REP_ERR_INVALID
    talk.ask(p.OPT_GO, info_request(""))
    assert talk.agreed.tls
    assert not talk.agreed.structured
    assert not talk.agreed.no_zeroes


@pytest.mark.parametrize("name", ["disk", ""])
def test_export_name_before_tls_ends_the_connection(name):
    talk = Talk(tls=lambda: None)
    with pytest.raises(ProtocolError):
        talk.feed(p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, len(name)) + name.encode())


def test_very_long_options_are_skipped_in_pieces():
    talk = Talk()
    chance = random.Random(1)
    for _ in range(5):
        length = chance.randrange(MAX_OPTION + 1, 5 * MAX_OPTION)
        assert talk.ask(p.OPT_GO, bytes(length))[0][0] == p.REP_ERR_TOO_BIG
    assert talk.ask(p.OPT_LIST)[-1][0] == p.REP_ACK


def string(data):
    return len(data).to_bytes(4, "big") + data


def number(value):
    return value.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (string(b"disk") + number(0), p.REP_ACK),
        (string(b"disk") + number(1) + string(b"a:one"), p.REP_ACK),
        (string(b"disk") + number(1) + string("é".encode()), p.REP_ACK),
        (string(b"disk") + number(1) + string(b"a" * 4096), p.REP_ACK),
        (string(b"disk") + number(1) + string(b"a" * 4097), p.REP_ERR_INVALID),
        (string(b"disk") + number(1) + string(b"\xff"), p.REP_ERR_INVALID),
        (string(b"disk") + number(1) + string(b"a:one") + b"x", p.REP_ERR_INVALID),
        (string(b"disk") + number(2) + string(b"a:one"), p.REP_ERR_INVALID),
        (string(b"disk") + number(1) + string(b"a:one")[:-1], p.REP_ERR_INVALID),
        (string(b"disk") + number(0)[:3], p.REP_ERR_INVALID),
        (string(b"disk"), p.REP_ERR_INVALID),
        (string(b"disk")[:-1], p.REP_ERR_INVALID),
        (b"", p.REP_ERR_INVALID),
        (string(b"d" * 4097) + number(0), p.REP_ERR_INVALID),
        (string(b"d" * 4096) + number(0), p.REP_ERR_UNKNOWN),
        (string(b"no") + number(0), p.REP_ERR_UNKNOWN),
    ],
)
@pytest.mark.parametrize("option", [p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT])
def test_metadata_queries_right_and_wrong(option, data, wanted):
    talk = Talk()
    talk.ask(p.OPT_STRUCTURED_REPLY)
    assert talk.ask(option, data)[-1][0] == wanted
    assert talk.ask(p.OPT_LIST)[-1][0] == p.REP_ACK


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (string(b"disk") + b"\0\0", p.REP_ACK),
        (string(b"") + b"\0\1\0\1", p.REP_ACK),
        (string(b"disk") + b"\0\1", p.REP_ERR_INVALID),
        (string(b"disk") + b"\0\0x", p.REP_ERR_INVALID),
        (string(b"disk") + b"\0", p.REP_ERR_INVALID),
        (string(b"disk"), p.REP_ERR_INVALID),
        (b"\0" * 6, p.REP_ACK),
        (b"\0" * 5, p.REP_ERR_INVALID),
        (b"", p.REP_ERR_INVALID),
        (string(b"d" * 4097) + b"\0\0", p.REP_ERR_INVALID),
        (string(b"d" * 4096) + b"\0\0", p.REP_ERR_UNKNOWN),
        (string(b"dis") + b"\0\0", p.REP_ERR_UNKNOWN),
    ],
)
def test_requests_for_information_right_and_wrong(data, wanted):
    talk = Talk()
    assert talk.ask(p.OPT_INFO, data)[-1][0] == wanted
    assert talk.agreed is None
    assert talk.ask(p.OPT_GO, data)[-1][0] == wanted
    assert (talk.agreed is not None) == (wanted == p.REP_ACK)


def test_what_information_is_given():
    """Each kind asked for once, and the two that always come."""
    talk = Talk()
    replies = talk.ask(p.OPT_INFO, info_request("disk", p.INFO_DESCRIPTION, p.INFO_NAME, 99, p.INFO_NAME))
    sizes = p.INFO_BLOCK_SIZE_DATA.pack(p.INFO_BLOCK_SIZE, 1, 4096, 32 << 20)
    export = p.INFO_EXPORT_DATA.pack(p.INFO_EXPORT, 12345, p.TFLAG_HAS_FLAGS)
    texts = [b"\0\2a disk", b"\0\1disk"]
    assert replies == [*((p.REP_INFO, data) for data in (*texts, sizes, export)), (p.REP_ACK, b"")]
    talk.ask(p.OPT_STRUCTURED_REPLY)
    [_, (_, export), _] = talk.ask(p.OPT_GO, info_request(""))
    assert p.INFO_EXPORT_DATA.unpack(export)[2] == p.TFLAG_HAS_FLAGS | p.TFLAG_SEND_DF


def test_the_preferred_block_is_the_exports_where_it_is_larger():
    class Coarse(Export):
        block_size = 65536

    said = []
    steps = Negotiation(Coarse(), said.append, None).run()
    next(steps)
    steps.send(p.CLIENT_FLAGS.pack(FLAGS))
    data = info_request("disk")
    steps.send(p.OPTION.pack(p.OPTION_MAGIC, p.OPT_INFO, len(data)))
    steps.send(data)
    assert p.INFO_BLOCK_SIZE_DATA.pack(p.INFO_BLOCK_SIZE, 1, 65536, 32 << 20) in said[1]


@pytest.mark.parametrize(
    ("option", "data", "kind", "why"),
    [
        (p.OPT_LIST, b"x", p.REP_ERR_INVALID, "LIST takes no data"),
        (p.OPT_STRUCTURED_REPLY, b"x", p.REP_ERR_INVALID, "STRUCTURED_REPLY takes no data"),
        (p.OPT_STARTTLS, b"x", p.REP_ERR_INVALID, "STARTTLS takes no data"),
        (p.OPT_STARTTLS, b"", p.REP_ERR_POLICY, "this server has no TLS"),
        (p.OPT_INFO, b"", p.REP_ERR_INVALID, "malformed request for information"),
        (p.OPT_GO, info_request("no"), p.REP_ERR_UNKNOWN, "there is no such export"),
        (p.OPT_SET_META_CONTEXT, queries("disk"), p.REP_ERR_INVALID, "structured replies come first"),
        (p.OPT_LIST_META_CONTEXT, b"", p.REP_ERR_INVALID, "malformed metadata query"),
        (p.OPT_LIST_META_CONTEXT, queries("no"), p.REP_ERR_UNKNOWN, "there is no such export"),
        (p.OPT_EXTENDED_HEADERS, b"", p.REP_ERR_UNSUP, "unknown option"),
        (77, bytes(MAX_OPTION + 1), p.REP_ERR_TOO_BIG, "option too long"),
        (77, bytes(MAX_OPTION), p.REP_ERR_UNSUP, "unknown option"),
    ],
)
def test_a_refusal_says_why(option, data, kind, why):
    assert Talk().ask(option, data) == [(kind, why.encode())]


def test_what_ends_the_connection_says_why():
    """In the log of the server: the client is told nothing."""
    hidden = Export()
    hidden.listed = False
    said = []
    for data, why in (
        (p.OPTION.pack(p.OPTION_MAGIC, p.OPT_ABORT, 0), "the client ended the negotiation"),
        (p.OPTION.pack(1, p.OPT_LIST, 0), "an option without its magic number"),
        (p.OPTION.pack(p.OPTION_MAGIC, 1, 2) + b"no", "EXPORT_NAME for an export that cannot be had"),
        (p.OPTION.pack(p.OPTION_MAGIC, 1, MAX_OPTION + 1) + bytes(MAX_OPTION + 1), "EXPORT_NAME for an"),
    ):
        talk = Talk()
        with pytest.raises(ProtocolError, match=re.escape(why)):
            talk.feed(data)
    with pytest.raises(ProtocolError, match="unknown client flags 0x4"):
        Talk(flags=4)
    steps = Negotiation(hidden, said.append, None).run()
    next(steps)
    steps.send(p.CLIENT_FLAGS.pack(FLAGS))
    steps.send(p.OPTION.pack(p.OPTION_MAGIC, p.OPT_LIST, 0))
    assert said[1].endswith(b"exports are not listed here")


def test_listing():
    assert Talk().ask(p.OPT_LIST) == [(p.REP_SERVER, string(b"disk")), (p.REP_ACK, b"")]


def test_a_failed_request_for_contexts_leaves_none():
    talk = Talk()
    talk.ask(p.OPT_STRUCTURED_REPLY)
    talk.ask(p.OPT_SET_META_CONTEXT, queries("disk", "a:one"))
    talk.ask(p.OPT_LIST_META_CONTEXT, queries("no"))
    assert talk.steps.gi_frame is not None
    talk.ask(p.OPT_SET_META_CONTEXT, queries("no", "a:one"))
    talk.ask(p.OPT_GO, info_request("disk"))
    assert talk.agreed.contexts == []


def test_another_process_goes_on_where_one_stopped():
    """What a hand-over needs to know: what was agreed, and the bytes of an option that is not whole."""
    said = []
    negotiation = Negotiation(Export(), said.append, None)
    assert (negotiation.greeted, negotiation.head) == (False, b"")
    steps = negotiation.go_on(Agreement(structured=True, no_zeroes=True))
    assert next(steps) == p.OPTION.size
    assert (negotiation.greeted, said) == (True, [])
    head = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_INFO, 10)
    assert steps.send(head) == 10
    assert negotiation.head == head
    assert steps.send(info_request("disk")) == p.OPTION.size
    assert negotiation.head == b""
    assert steps.send(p.OPTION.pack(p.OPTION_MAGIC, 99, MAX_OPTION + 7)) == MAX_OPTION
    assert negotiation.head is None, "too long to be handed over"
    assert steps.send(bytes(MAX_OPTION)) == 7
    assert steps.send(bytes(7)) == p.OPTION.size
    steps.send(p.OPTION.pack(p.OPTION_MAGIC, p.OPT_GO, 10))
    with pytest.raises(StopIteration) as stop:
        steps.send(info_request("disk"))
    assert stop.value.value == Agreement(structured=True, no_zeroes=True)


def test_an_export_presented_under_another_name():
    export = Export()
    writer, reader = Presented(export, "token", False), Presented(export, "token", True)
    changes = p.TFLAG_SEND_FUA | p.TFLAG_SEND_TRIM | p.TFLAG_SEND_WRITE_ZEROES | p.TFLAG_SEND_FAST_ZERO
    export.flags = lambda: p.TFLAG_HAS_FLAGS | p.TFLAG_SEND_CACHE | changes
    assert writer.flags() == export.flags()
    assert reader.flags() == p.TFLAG_HAS_FLAGS | p.TFLAG_SEND_CACHE | p.TFLAG_READ_ONLY
    for each in (writer, reader):
        assert (each.name, each.size, each.block_size) == ("token", 12345, 512)
        assert (each.listed, each.description) == (False, "")
        assert each.contexts("a:") == ["a:one", "a:two"]
        assert each.context_id("a:two") == 2
    same = ReadOnly(export)
    assert (same.name, same.listed, same.description, same.flags()) == (
        "disk",
        True,
        "a disk",
        reader.flags(),
    )
