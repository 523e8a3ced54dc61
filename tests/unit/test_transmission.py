# SPDX-License-Identifier: Apache-2.0
"""Requests of any kind, legal or not, many at once, against a model: each gets one reply, the right one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.dataplane import protocol as p
from tests.disks import TINY, frozen, make_pool, make_spec
from tests.hosted import Hosted

BLOCK = TINY.block_size
REGION = 300 << 10
REGIONS = 5
SIZE = REGIONS * REGION + 700
KNOWN = {
    p.CMD_READ: p.CMD_FLAG_DF | p.CMD_FLAG_FUA,
    p.CMD_WRITE: p.CMD_FLAG_FUA,
    p.CMD_FLUSH: 0,
    p.CMD_TRIM: p.CMD_FLAG_FUA,
    p.CMD_CACHE: 0,
    p.CMD_WRITE_ZEROES: p.CMD_FLAG_FUA | p.CMD_FLAG_NO_HOLE | p.CMD_FLAG_FAST_ZERO,
    p.CMD_BLOCK_STATUS: p.CMD_FLAG_REQ_ONE,
}
CHANGES = (p.CMD_WRITE, p.CMD_TRIM, p.CMD_WRITE_ZEROES)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t")
    with Hosted(make_spec(make_pool(folder / "pool"), SIZE), folder) as served:
        yield served


def sizes():
    return st.one_of(st.integers(1, 3000), st.sampled_from([512, 4096, 65536, 65537, 131072, 200 << 10]))


@st.composite
def requests(draw, region):
    """A request within its own part of the disk, or past the end, or one nobody should send."""
    kind = draw(st.sampled_from([*KNOWN, *CHANGES, p.CMD_READ, p.CMD_READ]))
    flags = draw(st.sampled_from([0, 0, 0, *(1 << bit for bit in range(6))]))
    if draw(st.integers(0, 9)) == 0:
        offset, length = draw(st.sampled_from([(SIZE - 1, 2), (SIZE, 1), (1 << 62, 5), (region * REGION, 0)]))
    else:
        length = draw(sizes())
        room = REGION - length
        offset = region * REGION + draw(
            st.one_of(st.integers(0, room), st.integers(0, room // BLOCK).map(BLOCK.__mul__))
        )
    if draw(st.integers(0, 30)) == 0:
        kind = draw(st.sampled_from([p.CMD_RESIZE, 9, 77, 0xFFFF]))
    return kind, offset, length, flags


batches = st.lists(st.tuples(*[requests(region) for region in range(REGIONS)]), min_size=1, max_size=4)


def refusal(kind, offset, length, flags, read_only):
    """Give the error that the specification, and our manual, want; 0 for none."""
    if kind not in KNOWN or flags & ~KNOWN[kind]:
        return p.EINVAL
    if kind == p.CMD_FLUSH:
        return 0
    if kind in CHANGES and read_only:
        return p.EPERM
    if offset + length > SIZE:
        return p.ENOSPC if kind in (p.CMD_WRITE, p.CMD_WRITE_ZEROES) else p.EINVAL
    return 0 if length else p.EINVAL


def apply(model, kind, offset, length, payload):
    if kind == p.CMD_WRITE:
        model[offset : offset + length] = payload
    elif kind == p.CMD_WRITE_ZEROES:
        model[offset : offset + length] = bytes(length)
    elif kind == p.CMD_TRIM:
        first, last = -(-offset // BLOCK) * BLOCK, (offset + length) // BLOCK * BLOCK
        if offset + length == SIZE:
            last = SIZE
        if last > first:
            model[first:last] = bytes(last - first)


def check_chunks(reply, kind, offset, length, flags):
    """A structured reply says everything once; with DF in one piece."""
    if kind == p.CMD_READ:
        spans = []
        for chunk, payload in reply.chunks:
            at = int.from_bytes(payload[:8], "big")
            if chunk == p.CHUNK_OFFSET_HOLE:
                _, size = p.CHUNK_HOLE.unpack(payload)
            else:
                assert chunk == p.CHUNK_OFFSET_DATA
                size = len(payload) - 8
            spans.append((at, size))
        spans.sort()
        assert sum(size for _, size in spans) == length
        assert [at for at, _ in spans] == [offset + sum(s for _, s in spans[:n]) for n in range(len(spans))]
        assert len(spans) == 1 or not flags & p.CMD_FLAG_DF
    elif kind == p.CMD_BLOCK_STATUS:
        check_status(reply, length, flags)
    else:
        assert reply.chunks == [(p.CHUNK_NONE, b"")]


def check_status(reply, length, flags):
    for chunk, payload in reply.chunks:
        assert chunk == p.CHUNK_BLOCK_STATUS
        extents = list(p.STATUS_EXTENT.iter_unpack(payload[4:]))
        assert all(count for count, _ in extents)
        total = sum(count for count, _ in extents)
        if flags & p.CMD_FLAG_REQ_ONE:
            assert len(extents) == 1
            assert total <= length
        else:
            assert total == length
    assert [int.from_bytes(payload[:4], "big") for _, payload in reply.chunks] == [1, 2]


@pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])
@given(steps=batches)
@settings(max_examples=60, deadline=None)
def test_each_request_gets_the_reply_it_should(served, structured, steps):
    contexts = (p.CONTEXT_ALLOCATION, p.CONTEXT_DEPTH) if structured else ()
    with served.raw(structured=structured, contexts=contexts) as raw:
        assert raw.call(p.CMD_TRIM, 0, SIZE).error == 0
        model = bytearray(SIZE)
        for number, batch in enumerate(steps, 1):
            asked, wire = {}, b""
            for region, (kind, offset, length, flags) in enumerate(batch):
                cookie = 1000 * number + region
                payload = bytes([number * 16 + region]) * length if kind == p.CMD_WRITE else b""
                asked[cookie] = (kind, offset, length, flags, payload)
                raw.lengths[cookie] = (offset, length if kind == p.CMD_READ else 0)
                wire += p.REQUEST.pack(p.REQUEST_MAGIC, flags, kind, cookie, offset, length) + payload
            raw.sock.sendall(wire)
            for _ in batch:
                judge(raw.reply(), asked, model, structured)
            assert not asked
        assert raw.get(0, SIZE) == model


def judge(reply, asked, model, structured):
    kind, offset, length, flags, payload = asked.pop(reply.cookie)
    wanted = refusal(kind, offset, length, flags, read_only=False)
    if not wanted and kind == p.CMD_BLOCK_STATUS and not structured:
        wanted = p.EINVAL  # no context was agreed on
    if reply.error == p.ENOTSUP:
        assert kind == p.CMD_WRITE_ZEROES
        assert flags & p.CMD_FLAG_FAST_ZERO
        return
    assert reply.error == wanted
    if wanted:
        return
    if kind == p.CMD_READ:
        assert reply.data == model[offset : offset + length]
    apply(model, kind, offset, length, payload)
    if structured:
        check_chunks(reply, kind, offset, length, flags)


@given(steps=batches)
@settings(max_examples=15, deadline=None)
def test_what_is_read_only_refuses_changes_and_nothing_else(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("r")
    spec = make_spec(make_pool(folder / "pool"), SIZE)
    with Hosted(frozen(spec), folder) as served, served.raw() as raw:
        for kind, offset, length, flags in (request for batch in steps for request in batch):
            payload = b"x" * length if kind == p.CMD_WRITE else b""
            reply = raw.call(kind, offset, length, flags, payload=payload)
            wanted = refusal(kind, offset, length, flags, read_only=True)
            assert reply.error == (p.EINVAL if kind == p.CMD_BLOCK_STATUS else wanted)
            assert not any(reply.data)
