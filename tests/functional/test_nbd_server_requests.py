# SPDX-License-Identifier: Apache-2.0
"""Requests to a real worker, legal and not: what each is answered, and that the connection goes on."""

import random
from dataclasses import replace

import pytest

from fisk_core.dataplane import protocol as p
from fisk_core.pools import open_pool
from tests.disks import TINY, USUAL, frozen, make_disk, make_pool, make_spec
from tests.servers import Served

SIZE = 70 << 20
BLOCK = 512
ERRORS_OF_CHANGES = {p.CMD_WRITE: p.ENOSPC, p.CMD_WRITE_ZEROES: p.ENOSPC, p.CMD_TRIM: p.EINVAL}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    with Served(make_spec(make_pool(folder / "pool"), SIZE), folder) as served:
        yield served


@pytest.fixture(params=["simple", "structured"])
def raw(request, served):
    with served.raw(structured=request.param == "structured") as raw:
        yield raw


def change(raw, kind, offset, length, flags=0):
    """Do one of the three kinds of change; gives the error."""
    payload = b"c" * length if kind == p.CMD_WRITE else b""
    return raw.call(kind, offset, length, flags, payload=payload).error


@pytest.mark.parametrize("kind", ERRORS_OF_CHANGES)
@pytest.mark.parametrize("flags", [0, p.CMD_FLAG_FUA])
@pytest.mark.parametrize(
    ("offset", "length"), [(BLOCK, BLOCK), (1, 1), (3, 2 * BLOCK), (2000, 90_000), (0, 2048)]
)
def test_changes_of_any_alignment(raw, kind, flags, offset, length):
    assert raw.write(0, b"a" * 100_000) == 0
    assert change(raw, kind, offset, length, flags) == 0
    expected = bytearray(b"a" * 100_000)
    if kind == p.CMD_TRIM:
        first, last = -(-offset // BLOCK) * BLOCK, (offset + length) // BLOCK * BLOCK
        expected[first:last] = bytes(max(0, last - first))
    else:
        expected[offset : offset + length] = (b"c" if kind == p.CMD_WRITE else b"\0") * length
    assert raw.get(0, 100_000) == expected


@pytest.mark.parametrize("flags", range(0, 32, 2))
def test_flags_of_write_zeroes(raw, served, flags):
    """NO_HOLE and FAST_ZERO are known; DF, REQ_ONE are not for this command.

    Allocated zeros are fast only where the file system can make them without writing.
    """
    assert raw.write(0, b"a" * 4096) == 0
    both = p.CMD_FLAG_NO_HOLE | p.CMD_FLAG_FAST_ZERO
    slow = flags == both and not open_pool(served.spec.pool).capabilities.preallocate
    error = p.EINVAL if flags & ~both else p.ENOTSUP if slow else 0
    assert change(raw, p.CMD_WRITE_ZEROES, 512, 2048, flags) == error
    assert raw.get(512, 2048) == (b"a" if error else b"\0") * 2048


def test_no_hole_keeps_the_range_allocated(served):
    with served.raw(structured=True, contexts=(p.CONTEXT_ALLOCATION,)) as raw:
        raw.write(0, b"a" * 8192)
        assert change(raw, p.CMD_WRITE_ZEROES, 0, 2048, p.CMD_FLAG_NO_HOLE) == 0
        assert change(raw, p.CMD_WRITE_ZEROES, 2048, 2048) == 0
        assert raw.status(0, 8192) == {1: [(2048, 0), (2048, 3), (4096, 0)]}
        assert raw.get(0, 4096) == bytes(4096)


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        (p.CMD_READ, p.CMD_FLAG_DF | p.CMD_FLAG_FUA), (p.CMD_WRITE, p.CMD_FLAG_FUA), (p.CMD_FLUSH, 0),
        (p.CMD_TRIM, p.CMD_FLAG_FUA), (p.CMD_CACHE, 0), (p.CMD_BLOCK_STATUS, p.CMD_FLAG_REQ_ONE),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bit", [*range(6), 15])
def test_unknown_flags(served, kind, known, bit):
    with served.raw(structured=True, contexts=(p.CONTEXT_ALLOCATION,)) as raw:
        length = 0 if kind == p.CMD_FLUSH else 512
        payload = b"x" * 512 if kind == p.CMD_WRITE else b""
        reply = raw.call(kind, 0, length, 1 << bit, payload=payload)
        assert reply.error == (0 if 1 << bit & known else p.EINVAL)
        assert raw.works()


@pytest.mark.parametrize("kind", [p.CMD_RESIZE, 9, 10, 255, 0xFFFF])
def test_unknown_commands(raw, kind):
    assert raw.call(kind, 0, 512).error == p.EINVAL
    assert raw.works()


@pytest.mark.parametrize("kind", [p.CMD_READ, p.CMD_WRITE, p.CMD_TRIM, p.CMD_WRITE_ZEROES, p.CMD_CACHE])
@pytest.mark.parametrize("offset", [0, 7, SIZE])
def test_zero_length(raw, kind, offset):
    assert raw.call(kind, offset, 0).error == p.EINVAL
    assert raw.works()


@pytest.mark.parametrize("kind", [p.CMD_READ, p.CMD_CACHE, p.CMD_BLOCK_STATUS, *ERRORS_OF_CHANGES])
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (SIZE, 1), (SIZE, 512), (SIZE - 512, 1024), (SIZE - 1, 2), (SIZE + (2 << 20), 4096), (1 << 63, 512),
        ((1 << 64) - 512, 512), ((1 << 64) - 1, 1), (SIZE - 4096, 1 << 20),
    ],
)  # fmt: skip
def test_past_the_end(served, kind, offset, length):
    with served.raw(structured=True, contexts=(p.CONTEXT_ALLOCATION,)) as raw:
        payload = b"x" * length if kind == p.CMD_WRITE else b""
        assert raw.call(kind, offset, length, payload=payload).error == ERRORS_OF_CHANGES.get(kind, p.EINVAL)
        assert raw.works()


def test_a_flush_ignores_offset_and_length(raw):
    assert raw.call(p.CMD_FLUSH, 1 << 50, 77).error == 0


@pytest.mark.parametrize("length", [p.MAX_REQUEST, p.MAX_REQUEST - 512, p.MAX_REQUEST - 1])
def test_the_largest_requests(raw, length):
    data = random.Random(length).randbytes(1 << 20) * 32
    assert raw.write(512, data[:length]) == 0
    assert raw.get(512, length) == data[:length]
    assert raw.write(3, b"") == p.EINVAL
    assert change(raw, p.CMD_TRIM, 0, SIZE) == 0
    assert raw.get(512, length) == bytes(length)


@pytest.mark.parametrize("length", [p.MAX_REQUEST + 1, 33 << 20, 64 << 20])
def test_reads_and_writes_that_are_too_large(raw, length):
    assert raw.call(p.CMD_READ, 0, length).error == p.EINVAL
    assert raw.works()
    assert raw.write(0, bytes(length)) == p.EINVAL
    assert raw.works()


def test_replies_to_what_follows_a_write_that_is_too_large(raw):
    raw.send(p.CMD_WRITE, 0, 40 << 20, payload=b"z" * (40 << 20))
    raw.send(p.CMD_WRITE, 0, 512, payload=b"y" * 512)
    raw.send(p.CMD_READ, 0, 512)
    assert [(raw.reply().error) for _ in range(2)] == [p.EINVAL, 0]
    assert raw.reply().data == b"y" * 512


@pytest.mark.parametrize("sent", [0, 1, 100, 4096, 200_000, 700_001])
@pytest.mark.parametrize("length", [4096 * 50, 1 << 20, 1000])
def test_a_client_that_leaves_in_the_middle_of_its_data(served, sent, length):
    with served.raw() as raw:
        raw.send(p.CMD_WRITE, 1 << 20, length, payload=b"h" * min(sent, length - 1))
    with served.raw() as raw:
        assert raw.works()
        content = raw.get(1 << 20, length)
    assert set(content) <= {0, ord("h")}


def test_a_request_without_its_magic_ends_the_connection(served):
    with served.raw() as raw, served.raw() as other:
        raw.send(p.CMD_READ, 0, 512, magic=p.REQUEST_MAGIC ^ 1)
        assert raw.at_end()
        assert other.works()


def test_disconnect_is_silent_and_after_all_replies(raw):
    cookies = [raw.send(p.CMD_READ, 0, 4096) for _ in range(100)]
    cookies.append(raw.send(p.CMD_WRITE, 0, 512, p.CMD_FLAG_FUA, payload=bytes(512)))
    raw.sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_DISC, 5, 0, 0))
    assert sorted(raw.reply().cookie for _ in cookies) == cookies
    assert raw.at_end()


def test_reads_in_chunks(served):
    with served.raw(structured=True) as raw:
        start = 40 << 20
        assert change(raw, p.CMD_TRIM, start, 8 << 20) == 0
        assert raw.write(start, b"1" * 4096) == 0
        assert raw.write(start + 300_000, b"2" * 100) == 0
        reply = raw.call(p.CMD_READ, start, 1 << 20)
        kinds = [kind for kind, _ in reply.chunks]
        assert kinds == [p.CHUNK_OFFSET_DATA, p.CHUNK_OFFSET_HOLE, p.CHUNK_OFFSET_DATA, p.CHUNK_OFFSET_HOLE]
        whole = raw.call(p.CMD_READ, start, 1 << 20, p.CMD_FLAG_DF)
        assert [kind for kind, _ in whole.chunks] == [p.CHUNK_OFFSET_DATA]
        assert reply.data == whole.data
        assert whole.data.strip(b"\0") == b"1" * 4096 + bytes(300_000 - 4096) + b"2" * 100
        assert [kind for kind, _ in raw.call(p.CMD_READ, start + (1 << 20), 1 << 20).chunks] == [
            p.CHUNK_OFFSET_HOLE
        ]


def test_errors_in_structured_replies_say_why(served):
    with served.raw(structured=True) as raw:
        [(kind, payload)] = raw.call(p.CMD_READ, SIZE, 1).chunks
        code, length = p.CHUNK_ERROR_HEAD.unpack_from(payload)
        assert (kind, code, len(payload)) == (p.CHUNK_ERROR, p.EINVAL, 6 + length)
        assert payload[6:].decode()


def test_block_status(served):
    with served.raw(structured=True, contexts=(p.CONTEXT_ALLOCATION, p.CONTEXT_DEPTH)) as raw:
        assert change(raw, p.CMD_TRIM, 0, SIZE) == 0
        for block in (1, 2, 5):
            raw.write(block * BLOCK, b"d" * BLOCK)
        hole = p.STATE_HOLE | p.STATE_ZERO
        expected = [(512, hole), (1024, 0), (1024, hole), (512, 0), (SIZE - 6 * BLOCK, hole)]
        assert raw.status(0, SIZE)[1] == expected
        assert raw.status(0, SIZE)[2] == [(count, 0 if flags else 1) for count, flags in expected]
        assert raw.status(0, SIZE, p.CMD_FLAG_REQ_ONE) == {1: [(512, hole)], 2: [(512, 0)]}
        assert raw.status(600, 1500)[1] == [(936, 0), (564, hole)]
        assert raw.status(SIZE - 1, 1)[1] == [(1, hole)]


def test_block_status_needs_a_context(raw):
    assert raw.call(p.CMD_BLOCK_STATUS, 0, 4096).error == p.EINVAL
    assert raw.works()


def test_a_read_only_export(tmp_path):
    pool = make_pool(tmp_path / "pool")
    with make_disk(pool, SIZE) as disk:
        disk.write(0, b"frozen" * 1000)
    with Served(frozen(disk.spec), tmp_path) as served:
        for structured in (False, True):
            with served.raw(structured=structured, go=False) as raw:
                flags = int.from_bytes(raw.go()[-2][1][-2:], "big")
                assert flags & p.TFLAG_READ_ONLY
                assert not flags & (p.TFLAG_SEND_TRIM | p.TFLAG_SEND_WRITE_ZEROES | p.TFLAG_SEND_FUA)
                for offset in (0, 4096, 1 << 20):
                    for kind in ERRORS_OF_CHANGES:
                        for length in (1, 512, 2048, 4 << 20):
                            assert change(raw, kind, offset, length) == p.EPERM
                            assert change(raw, kind, offset, length, p.CMD_FLAG_FUA) == p.EPERM
                assert raw.call(p.CMD_FLUSH).error == 0
                assert raw.get(0, 6000) == b"frozen" * 1000


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("count", [1000])
def test_a_thousand_requests_in_one_send(served, structured, count):
    with served.raw(structured=structured) as raw:
        parts = []
        for number in range(count):
            data = number.to_bytes(4, "big") * 128
            parts.append(
                p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 2 * number, number * 512, 512) + data
            )
            parts.append(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 2 * number + 1, number * 512, 512))
            raw.lengths |= {2 * number: (0, 0), 2 * number + 1: (number * 512, 512)}
        raw.sock.sendall(b"".join(parts))
        replies = {reply.cookie: reply for reply in (raw.reply() for _ in range(2 * count))}
        assert len(replies) == 2 * count
        for number in range(count):
            assert replies[2 * number].error == 0
            assert replies[2 * number + 1].data == number.to_bytes(4, "big") * 128


@pytest.mark.parametrize(
    "geometry", [TINY, USUAL, replace(USUAL, block_size=1 << 20)], ids=lambda g: g.block_size
)
def test_any_block_size(tmp_path, geometry):
    with Served(make_spec(make_pool(tmp_path / "pool"), 16 << 20, geometry), tmp_path) as served:
        content, chance = bytearray(16 << 20), random.Random(3)
        with served.raw(structured=True) as raw:
            for length in (1 << 20, 1, 4096, 100_000, 128 << 10, 3 << 20, (4 << 20) + 1):
                offset = chance.randrange((16 << 20) - length) // 4096 * 4096
                for start in (1 << 20, offset):
                    data = chance.randbytes(length)
                    assert raw.write(start, data) == 0
                    content[start : start + length] = data
            assert raw.get(0, 16 << 20) == content
