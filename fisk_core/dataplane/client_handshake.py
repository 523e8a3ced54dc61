# SPDX-License-Identifier: Apache-2.0
"""Negotiation, the client's side: from a fresh connection to an export ready for requests.

Everything a server sends is bounded: the length of a reply, the number of replies to one option, and the time
the whole negotiation may take.  TLS once asked for is never given up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client_stream import Stream
from fisk_core.dataplane.client_tls import Tls
from fisk_core.errors import FiskError, InvalidValue, NotFound, ProtocolError, Unsupported

MAX_REPLY = 16 << 10
"""Bytes of one option reply: an export name and its description fit."""
MAX_REPLIES = 10_000
"""Replies to one option; a server with more exports than that cannot be listed."""
MAX_REPLY_BYTES = 8 << 20

_U32 = Struct(">I")
_U16 = Struct(">H")
_MAX_BLOCK = 64 << 10  # the largest minimum block size the specification allows

_REFUSED: dict[int, tuple[type[FiskError], str]] = {
    p.REP_ERR_UNSUP: (Unsupported, "does not know the option"),
    p.REP_ERR_POLICY: (ProtocolError, "refuses by policy"),
    p.REP_ERR_INVALID: (ProtocolError, "calls the request invalid"),
    p.REP_ERR_PLATFORM: (Unsupported, "cannot do it on its platform"),
    p.REP_ERR_TLS_REQD: (ProtocolError, "wants TLS first"),
    p.REP_ERR_UNKNOWN: (NotFound, "has no such export"),
    p.REP_ERR_SHUTDOWN: (ProtocolError, "is shutting down"),
    p.REP_ERR_BLOCK_SIZE_REQD: (ProtocolError, "wants block sizes to be honoured"),
    p.REP_ERR_TOO_BIG: (ProtocolError, "calls the request too big"),
}


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """What a server says of one export; sizes in bytes, ``flags`` are the transmission flags."""

    size: int
    flags: int
    minimum: int = 1
    preferred: int = 4096
    maximum: int = p.MAX_REQUEST
    description: str = ""
    structured: bool = False
    contexts: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExportName:
    """One line of a server's list."""

    name: str
    description: str = ""


class Negotiation:
    """One connection in the option phase; the caller closes the stream when any method raises."""

    def __init__(self, stream: Stream, peer: str) -> None:
        self._stream = stream
        self._peer = peer
        self.structured = False
        self.contexts: dict[int, str] = {}
        self._greet()

    def _greet(self) -> None:
        stream = self._stream
        magic, second, flags = p.HELLO.unpack(stream.read(p.HELLO.size))
        if magic != p.INIT_MAGIC:
            raise ProtocolError(f"{self._peer} is not an NBD server")
        if second != p.OPTION_MAGIC:
            raise ProtocolError(f"{self._peer} speaks only the old NBD negotiation without export names")
        self._fixed = bool(flags & p.FLAG_FIXED_NEWSTYLE)
        self._no_zeroes = bool(flags & p.FLAG_NO_ZEROES)
        stream.put(p.CLIENT_FLAGS.pack(flags & (p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES)))

    # One option

    def _ask(self, option: int, data: bytes = b"") -> None:
        self._stream.put(p.OPTION.pack(p.OPTION_MAGIC, option, len(data)), data)

    def _reply(self, option: int) -> tuple[int, bytes]:
        head = self._stream.read(p.OPTION_REPLY.size)
        magic, answered, kind, length = p.OPTION_REPLY.unpack(head)
        if magic != p.OPTION_REPLY_MAGIC or answered != option:
            raise ProtocolError(f"{self._peer} sent nonsense instead of a reply to option {option}")
        if length > MAX_REPLY:
            raise ProtocolError(f"{self._peer} announced {length} bytes of reply to option {option}")
        return kind, self._stream.read(length)

    def _replies(self, option: int, expected: int) -> Iterator[bytes]:
        """Give the data of the replies of kind ``expected`` until ACK; an error reply is raised, typed."""
        budget = MAX_REPLY_BYTES
        for _ in range(MAX_REPLIES):
            kind, data = self._reply(option)
            budget -= len(data)
            if kind == p.REP_ACK:
                return
            if kind & p.REP_FLAG_ERROR:
                raise self._refusal(kind, data)
            if budget < 0:
                break
            if kind != expected:
                raise ProtocolError(f"{self._peer} sent an unknown reply of type {kind} to option {option}")
            yield data
        raise ProtocolError(f"{self._peer} does not come to an end replying to option {option}")

    def _refusal(self, kind: int, data: bytes) -> FiskError:
        error, text = _REFUSED.get(kind, (ProtocolError, f"refuses with code {kind & ~p.REP_FLAG_ERROR}"))
        said = clean_text(data)
        return error(f"{self._peer} {text}" + (f": {said}" if said else ""))

    # The options

    def start_tls(self, tls: Tls, host: str) -> None:
        if not self._fixed:
            raise ProtocolError(f"{self._peer} cannot do TLS")
        context = tls.context()
        self._ask(p.OPT_STARTTLS)
        try:
            for _ in self._replies(p.OPT_STARTTLS, p.REP_ACK):
                pass
        except FiskError as exc:
            raise ProtocolError(f"TLS was asked for, but {exc}") from exc
        self._stream.start_tls(context, tls.hostname or host)

    def agree_structured(self) -> bool:
        """Ask for structured replies; servers that do not know them are fine."""
        if not self._fixed:
            return False
        self._ask(p.OPT_STRUCTURED_REPLY)
        try:
            for _ in self._replies(p.OPT_STRUCTURED_REPLY, p.REP_ACK):
                pass
            self.structured = True
        except Unsupported:
            return False
        return True

    def agree_contexts(self, export: str, contexts: Sequence[str]) -> None:
        """Ask for metadata contexts by name; the server picks those it has (``contexts``: id -> name)."""
        name = encode_name(export)
        queries = [encode_name(context) for context in contexts]
        data = _U32.pack(len(name)) + name + _U32.pack(len(queries))
        data += b"".join(_U32.pack(len(query)) + query for query in queries)
        self._ask(p.OPT_SET_META_CONTEXT, data)
        try:
            for reply in self._replies(p.OPT_SET_META_CONTEXT, p.REP_META_CONTEXT):
                self._add_context(reply, len(contexts))
        except Unsupported:
            self.contexts = {}

    def _add_context(self, reply: bytes, limit: int) -> None:
        if not 4 < len(reply) <= 4 + p.MAX_STRING or len(self.contexts) >= limit:
            raise ProtocolError(f"{self._peer} sent a malformed metadata context")
        (number,) = p.CONTEXT_ID.unpack_from(reply)
        self.contexts[number] = decode_name(reply[4:], self._peer)

    def list_exports(self) -> list[ExportName]:
        """LIST; raises Unsupported where the server keeps its names to itself."""
        if not self._fixed:
            raise Unsupported(f"{self._peer} cannot list its exports")
        self._ask(p.OPT_LIST)
        return [self._listed(reply) for reply in self._replies(p.OPT_LIST, p.REP_SERVER)]

    def _listed(self, reply: bytes) -> ExportName:
        if len(reply) < 4 or (length := _U32.unpack_from(reply)[0]) > len(reply) - 4:
            raise ProtocolError(f"{self._peer} sent a malformed list of exports")
        return ExportName(decode_name(reply[4 : 4 + length], self._peer), clean_text(reply[4 + length :]))

    def abort(self) -> None:
        """Leave politely, without waiting for the answer."""
        self._ask(p.OPT_ABORT)
        self._stream.push()

    def info(self, export: str) -> ExportInfo:
        """INFO: what GO would say, staying in negotiation."""
        return self._info(p.OPT_INFO, export)

    def go(self, export: str) -> ExportInfo:
        """Enter transmission, with GO or, for servers that do not know it, with EXPORT_NAME."""
        if self._fixed:
            try:
                return self._info(p.OPT_GO, export)
            except Unsupported:
                pass
        return self._export_name(export)

    def _info(self, option: int, export: str) -> ExportInfo:
        name = encode_name(export)
        wanted = (p.INFO_BLOCK_SIZE, p.INFO_DESCRIPTION)
        data = _U32.pack(len(name)) + name + _U16.pack(len(wanted))
        self._ask(option, data + b"".join(_U16.pack(kind) for kind in wanted))
        found: dict[int, bytes] = {}
        for reply in self._replies(option, p.REP_INFO):
            if len(reply) < 2:
                raise ProtocolError(f"{self._peer} sent malformed information on the export")
            found[_U16.unpack_from(reply)[0]] = reply
        return self._interpret(found)

    def _interpret(self, found: dict[int, bytes]) -> ExportInfo:
        export = found.get(p.INFO_EXPORT, b"")
        blocks = found.get(p.INFO_BLOCK_SIZE, p.INFO_BLOCK_SIZE_DATA.pack(0, 1, 4096, p.MAX_REQUEST))
        if len(export) != p.INFO_EXPORT_DATA.size or len(blocks) != p.INFO_BLOCK_SIZE_DATA.size:
            raise ProtocolError(f"{self._peer} sent malformed information on the export")
        _, size, flags = p.INFO_EXPORT_DATA.unpack(export)
        _, minimum, preferred, maximum = p.INFO_BLOCK_SIZE_DATA.unpack(blocks)
        description = clean_text(found.get(p.INFO_DESCRIPTION, b"")[2:])
        return self._checked(ExportInfo(size, flags, minimum, preferred, maximum, description))

    def _checked(self, info: ExportInfo) -> ExportInfo:
        if info.size >= 1 << 63:
            raise ProtocolError(f"{self._peer} claims an impossible size of {info.size} bytes")
        small = info.minimum
        if small & (small - 1) or not 0 < small <= _MAX_BLOCK or info.maximum < small:
            raise ProtocolError(f"{self._peer} claims impossible block sizes: {small} to {info.maximum}")
        largest = min(info.maximum, p.MAX_REQUEST)
        return ExportInfo(
            info.size, info.flags, small, info.preferred, largest - largest % small, info.description,
            self.structured, dict(self.contexts),
        )  # fmt: skip

    def _export_name(self, export: str) -> ExportInfo:
        name = encode_name(export)
        self._ask(p.OPT_EXPORT_NAME, name)
        try:
            reply = self._stream.read(p.EXPORT_NAME_REPLY.size)
        except ProtocolError as exc:
            # This option has no error reply: a server without the export can only hang up.
            raise ProtocolError(f"{exc} when asked for export '{export}'") from exc
        size, flags = p.EXPORT_NAME_REPLY.unpack(reply)
        if not self._no_zeroes:
            self._stream.read(124)
        return self._checked(ExportInfo(size, flags))


def encode_name(name: str) -> bytes:
    """Give the wire form of an export or context name; raises InvalidValue."""
    data = name.encode()
    if len(data) > p.MAX_STRING:
        raise InvalidValue(f"a name of {len(data)} bytes is too long for NBD ({p.MAX_STRING})")
    return data


def decode_name(data: bytes, peer: str) -> str:
    """Read a name off the wire, where it must be UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"{peer} sent a name that is not UTF-8") from None


def clean_text(data: bytes | bytearray | memoryview) -> str:
    """Make a server's message fit for one line of ours: printable and not too long."""
    text = bytes(data[:400]).decode(errors="replace")
    return "".join(char if char.isprintable() else " " for char in text).strip()[:200]
