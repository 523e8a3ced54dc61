# SPDX-License-Identifier: Apache-2.0
"""The server's side of negotiation without a socket: options no client of ours would send, in any order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.negotiation import MAX_OPTION, ExportInfo, Negotiation
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
