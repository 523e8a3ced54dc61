# SPDX-License-Identifier: Apache-2.0
"""Whether what a server answered is what the protocol, and the disk's content, allow.

This knows the protocol by its specification and nothing of our server.  Everything received must be accounted
for: a reply to each option, exactly one to each request that came whole, the right error or none, and not a
byte of data that the disk did not hold.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from fisk_core.dataplane import protocol as p

BLOCK = 512
CHANGES = (p.CMD_WRITE, p.CMD_TRIM, p.CMD_WRITE_ZEROES)
_KNOWN = {
    p.CMD_READ: p.CMD_FLAG_DF | p.CMD_FLAG_FUA,
    p.CMD_WRITE: p.CMD_FLAG_FUA,
    p.CMD_FLUSH: 0,
    p.CMD_TRIM: p.CMD_FLAG_FUA,
    p.CMD_CACHE: 0,
    p.CMD_WRITE_ZEROES: p.CMD_FLAG_FUA | p.CMD_FLAG_NO_HOLE | p.CMD_FLAG_FAST_ZERO,
    p.CMD_BLOCK_STATUS: p.CMD_FLAG_REQ_ONE,
}


class Broken(Exception):
    """The server did what no server may."""


def require(condition: bool, what: str) -> None:
    """Raise Broken unless ``condition``."""
    if not condition:
        raise Broken(what)


@dataclass(slots=True)
class Asked:
    """One request as it was sent; ``whole`` unless part of its payload never came."""

    kind: int
    flags: int
    cookie: int
    offset: int
    length: int
    payload: bytes = b""
    whole: bool = True
    error: int | None = None
    """what it was answered with"""


@dataclass(slots=True)
class Offer:
    """What the attacked server serves."""

    size: int
    names: tuple[bytes, ...]
    read_only: bool = False
    patience: int | None = None
    """options after which the server may hang up, and it knows its names only once it was asked for one"""


class _Cursor:
    """Takes bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int, what: str = "a reply") -> bytes:
        require(self.left >= count, f"{what} ends after {self.left} of {count} bytes")
        self._at += count
        return self._data[self._at - count : self._at]


@dataclass
class Verdict:
    """What came of one conversation."""

    requests: list[Asked] = field(default_factory=list)
    replies: int = 0
    reads: list[tuple[Asked, int, bytes]] = field(default_factory=list)
    """(request, offset, data) that was given"""
    options: int = 0


class Judge:
    """One conversation: all that was ``sent`` and ``got``; the server ``closed`` it, or is quiet."""

    def __init__(self, offer: Offer, sent: bytes, got: bytes, closed: bool) -> None:
        self._offer = offer
        self._sent, self._got, self._closed = _Cursor(sent), _Cursor(got), closed
        self._structured, self._contexts = False, 0
        self._ended = False
        """the server has a reason to close"""
        self.verdict = Verdict()

    def judge(self) -> Verdict:
        """Raises Broken."""
        if self._negotiation():
            self._transmission()
        require(not self._got.left, f"{self._got.left} bytes too many were received")
        require(self._ended or not self._closed, "the connection was closed for no reason")
        return self.verdict

    # Negotiation

    def _negotiation(self) -> bool:
        """Check it; True where transmission begins."""
        hello = p.HELLO.pack(p.INIT_MAGIC, p.OPTION_MAGIC, p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES)
        require(self._got.take(p.HELLO.size, "the greeting") == hello, "the greeting is wrong")
        if self._sent.left < 4:
            return False
        flags = int.from_bytes(self._sent.take(4), "big")
        if flags & ~3:
            return self._end()
        while self._sent.left >= p.OPTION.size:
            magic, option, length = p.OPTION.unpack(self._sent.take(p.OPTION.size))
            if magic != p.OPTION_MAGIC:
                return self._end()
            if self._sent.left < length:
                return False
            self.verdict.options += 1
            data = self._sent.take(length)
            if self._impatient():
                return self._end()
            if option == p.OPT_EXPORT_NAME:
                return self._export_name(data, bool(flags & p.FLAG_NO_ZEROES))
            final = self._option(option)
            if option == p.OPT_ABORT:
                return self._end()
            if option == p.OPT_GO and final == p.REP_ACK:
                return True
        return False

    def _end(self) -> bool:
        """The server must hang up now."""
        self._ended = True
        require(self._closed, "the connection goes on after what must end it")
        return False

    def _impatient(self) -> bool:
        """Say whether the server hung up on a client that never comes to the point."""
        patience = self._offer.patience
        return (
            patience is not None and self.verdict.options > patience and not self._got.left and self._closed
        )

    def _export_name(self, data: bytes, no_zeroes: bool) -> bool:
        if data not in self._offer.names or (self._offer.patience and not self._got.left):
            return self._end()
        size, _ = p.EXPORT_NAME_REPLY.unpack(self._got.take(p.EXPORT_NAME_REPLY.size))
        require(size == self._offer.size, f"a size of {size}")
        if not no_zeroes:
            require(not any(self._got.take(124)), "the padding is not zero")
        return True

    def _option(self, option: int) -> int:
        """Check the replies to one option; gives the kind of the last."""
        contexts = 0
        while True:
            head = self._got.take(p.OPTION_REPLY.size, "the reply to an option")
            magic, answered, kind, length = p.OPTION_REPLY.unpack(head)
            require(magic == p.OPTION_REPLY_MAGIC, "a reply without its magic number")
            require(answered == option, f"option {option} was answered as {answered}")
            require(length <= 8192, f"a reply of {length} bytes to an option")
            self._got.take(length)
            contexts += kind == p.REP_META_CONTEXT
            if kind == p.REP_ACK or kind & p.REP_FLAG_ERROR:
                break
        if option == p.OPT_STRUCTURED_REPLY and kind == p.REP_ACK:
            self._structured = True
        if option == p.OPT_SET_META_CONTEXT:
            self._contexts = contexts if kind == p.REP_ACK else 0
        return int(kind)

    # Transmission

    def _transmission(self) -> None:
        asked: dict[int, list[Asked]] = defaultdict(list)
        for request in self._requests():
            self.verdict.requests.append(request)
            asked[request.cookie].append(request)
        if any(_differ(each) for each in asked.values()):
            # Replies may overtake each other: nobody can tell which of these requests one belongs to.
            self._got.take(self._got.left)
            self._ended = True
            return
        while self._got.left:
            request = self._reply(asked)
            self.verdict.replies += 1
            self._check_error(request)
        owed = [each for each in self.verdict.requests if each.whole and each.error is None]
        if not self._ended_badly:
            require(not owed, f"no reply to {owed[:1]}" if owed else "")

    _ended_badly = False

    def _requests(self) -> Iterator[Asked]:
        sent = self._sent
        while sent.left >= p.REQUEST.size:
            magic, flags, kind, cookie, offset, length = p.REQUEST.unpack(sent.take(p.REQUEST.size))
            if magic != p.REQUEST_MAGIC:
                # What was asked before it may go unanswered: the connection is gone.
                self._ended_badly = True
                self._end()
                return
            if kind == p.CMD_DISC:
                self._end()
                return
            request = Asked(kind, flags, cookie, offset, length)
            if kind == p.CMD_WRITE:
                request.payload = sent.take(min(length, sent.left))
                request.whole = len(request.payload) == length
            yield request

    def _reply(self, asked: dict[int, list[Asked]]) -> Asked:
        magic, word, cookie = p.SIMPLE_REPLY.unpack(self._got.take(p.SIMPLE_REPLY.size))
        require(bool(asked.get(cookie)), f"an answer with cookie {cookie}, which nobody asked")
        request = asked[cookie].pop(0)
        if not self._structured:
            require(magic == p.SIMPLE_REPLY_MAGIC, f"a simple reply with magic number {magic:x}")
            request.error = word
            if request.kind == p.CMD_READ and not word:
                self.verdict.reads.append((request, request.offset, self._got.take(request.length)))
        else:
            self._chunks(request, magic, word)
        return request

    def _chunks(self, request: Asked, magic: int, word: int) -> None:
        covered = contexts = 0
        request.error = 0
        while True:
            require(magic == p.STRUCTURED_REPLY_MAGIC, f"a chunk with magic number {magic:x}")
            flags, kind = word >> 16, word & 0xFFFF
            length = int.from_bytes(self._got.take(4), "big")
            data = self._got.take(length, "a chunk")
            if kind == p.CHUNK_ERROR:
                request.error = p.CHUNK_ERROR_HEAD.unpack_from(data)[0]
                require(request.error != 0, "an error chunk without an error")
            elif kind == p.CHUNK_NONE:
                require(not length and bool(flags & 1), "an empty chunk that is not empty or not the last")
            elif kind == p.CHUNK_BLOCK_STATUS:
                contexts += 1
                self._extents(request, data)
            else:
                covered += self._data(request, kind, data)
            if flags & p.CHUNK_FLAG_DONE:
                break
            magic, word, cookie = p.SIMPLE_REPLY.unpack(self._got.take(p.SIMPLE_REPLY.size))
            require(cookie == request.cookie, "chunks of two replies are mixed")
        if not request.error:
            wanted = request.length if request.kind == p.CMD_READ else 0
            require(covered == wanted, f"{covered} bytes for a read of {wanted}")
            wanted = self._contexts if request.kind == p.CMD_BLOCK_STATUS else 0
            require(contexts == wanted, f"{contexts} contexts of {wanted} were described")

    def _data(self, request: Asked, kind: int, data: bytes) -> int:
        """Check a chunk of a read; gives how many bytes it tells."""
        require(request.kind == p.CMD_READ and len(data) > 8, f"a chunk of type {kind}")
        offset = int.from_bytes(data[:8], "big")
        if kind == p.CHUNK_OFFSET_HOLE:
            found = bytes(p.CHUNK_HOLE.unpack(data)[1])
        else:
            require(kind == p.CHUNK_OFFSET_DATA, f"a chunk of type {kind}")
            found = data[8:]
        end = request.offset + request.length
        require(request.offset <= offset and offset + len(found) <= end, "a chunk outside of what was asked")
        self.verdict.reads.append((request, offset, found))
        return len(found)

    def _extents(self, request: Asked, data: bytes) -> None:
        require(request.kind == p.CMD_BLOCK_STATUS, "a status that nobody asked for")
        lengths = [length for length, _ in p.STATUS_EXTENT.iter_unpack(data[4:])]
        require(bool(lengths) and all(lengths), "a status without extents, or with an empty one")
        require(sum(lengths) <= request.length, "a status of more than was asked")
        if request.flags & p.CMD_FLAG_REQ_ONE:
            require(len(lengths) == 1, "several extents where one was asked for")

    def _check_error(self, request: Asked) -> None:
        wanted = self._expected(request)
        if request.error != wanted:
            raise Broken(f"error {request.error} instead of {wanted} for {request}")

    def _expected(self, request: Asked) -> int:
        """Give the error a request must be answered with, 0 for none."""
        kind, length = request.kind, request.length
        known = _KNOWN.get(kind)
        if known is None or request.flags & ~known or (kind == p.CMD_WRITE and length > p.MAX_REQUEST):
            return p.EINVAL
        if kind == p.CMD_FLUSH:
            return 0
        if kind in CHANGES and self._offer.read_only:
            return p.EPERM
        if request.offset + length > self._offer.size:
            return p.ENOSPC if kind in (p.CMD_WRITE, p.CMD_WRITE_ZEROES) else p.EINVAL
        if not length or (kind == p.CMD_READ and length > p.MAX_REQUEST):
            return p.EINVAL
        if kind == p.CMD_BLOCK_STATUS and not self._contexts:
            return p.EINVAL
        return 0


def _differ(requests: list[Asked]) -> bool:
    """Say whether requests with one cookie are not all the same."""
    first = requests[0]
    return any(
        (each.kind, each.flags, each.offset, each.length)
        != (first.kind, first.flags, first.offset, first.length)
        for each in requests[1:]
    )


class Shadow:
    """What the disk holds, as far as the answers say; ``content`` is checked with every conversation."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)

    def check_reads(self, verdict: Verdict) -> None:
        """Raises Broken for a byte that the disk never held during the conversation."""
        changes = [each for each in verdict.requests if each.kind in CHANGES]
        for _, offset, data in verdict.reads:
            if data != self.content[offset : offset + len(data)]:
                self._check_bytes(offset, data, changes)

    def _check_bytes(self, offset: int, data: bytes, changes: list[Asked]) -> None:
        """Slow and exact: each byte is the old one, or that of a change that was asked for."""
        for start in range(0, len(data), BLOCK):
            part, at = data[start : start + BLOCK], offset + start
            if part != self.content[at : at + len(part)]:
                self._check_block(at, part, changes)

    def _check_block(self, offset: int, data: bytes, changes: list[Asked]) -> None:
        """The usual case first: the block is as it was after one of the changes."""
        block, end = bytearray(self.content[offset : offset + len(data)]), offset + len(data)
        touching = [each for each in changes if each.offset < end and each.offset + each.length > offset]
        for each in touching:
            start, stop, new = self._effect(each)
            first, last = max(offset, start), min(end, stop)
            if first < last:
                block[first - offset : last - offset] = new[first - start : last - start]
                if block == data:
                    return
        self._check_each_byte(offset, data, touching)

    def _check_each_byte(self, offset: int, data: bytes, changes: list[Asked]) -> None:
        end = offset + len(data)
        legal = [{old} for old in self.content[offset:end]]
        for each in changes:
            for at in range(max(offset, each.offset), min(end, each.offset + each.length)):
                place = at - each.offset
                if each.kind != p.CMD_WRITE:
                    legal[at - offset].add(0)
                elif place < len(each.payload):
                    legal[at - offset].add(each.payload[place])
        for number, byte in enumerate(data):
            if byte not in legal[number]:
                raise Broken(f"byte {offset + number} is {byte}, which the disk never held")

    def settle(self, verdict: Verdict, actual: bytes) -> None:
        """Check what the disk holds after the conversation, and go on from there; raises Broken."""
        changes = [each for each in verdict.requests if each.kind in CHANGES]
        for each in changes:
            if each.error == 0:
                self._apply(each)
        if actual != self.content:
            # Requests may overtake each other, and some were never answered: any of their values is legal.
            self._check_bytes(0, actual, changes)
            self.content = bytearray(actual)

    def _apply(self, change: Asked) -> None:
        start, end, data = self._effect(change)
        self.content[start:end] = data

    def _effect(self, change: Asked) -> tuple[int, int, bytes]:
        """Give the range that a change sets, and its bytes; a trim forgets whole blocks."""
        start, end, size = change.offset, change.offset + change.length, len(self.content)
        if start > size or end > size:
            return 0, 0, b""
        if change.kind == p.CMD_TRIM:
            start, last = -(-start // BLOCK) * BLOCK, end if end == size else end // BLOCK * BLOCK
            end = max(start, last)
        if change.kind == p.CMD_WRITE:
            return start, min(end, start + len(change.payload)), change.payload
        return start, end, bytes(end - start)
