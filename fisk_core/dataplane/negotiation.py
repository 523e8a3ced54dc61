# SPDX-License-Identifier: Apache-2.0
"""The server's side of fixed newstyle negotiation, as a generator that knows no sockets.

It yields how many bytes it wants next and is sent them; what it has to say goes through ``say``.  It
returns an :class:`Agreement` when transmission begins.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from fisk_core.dataplane import protocol as nbd
from fisk_core.errors import ProtocolError

MAX_OPTION = 64 << 10
"""Bytes of an option that are looked at; longer ones are read and refused."""


@dataclass(slots=True)
class Agreement:
    """What client and server agreed on."""

    no_zeroes: bool = False
    structured: bool = False
    contexts: list[tuple[int, str]] = field(default_factory=list)
    """(id, name) of the metadata contexts block status reports, in the order the client asked"""
    tls: bool = False


class ExportInfo:
    """What the server offers; asked afresh by each connection."""

    name: str
    description: str
    size: int
    block_size: int
    listed: bool
    """whether LIST names the export"""

    def flags(self) -> int:
        """Transmission flags without DF, which depends on the connection."""
        raise NotImplementedError  # pragma: no cover - only says what an export has to answer

    def contexts(self, query: str) -> list[str]:
        """Metadata contexts that match a query; ``""`` means all, ``"fisk:"`` all of a namespace."""
        raise NotImplementedError  # pragma: no cover - only says what an export has to answer

    def context_id(self, name: str) -> int:
        raise NotImplementedError  # pragma: no cover - only says what an export has to answer


class Presented(ExportInfo):
    """An export under another name, as one connection sees it; it is never listed."""

    def __init__(self, export: ExportInfo, name: str, read_only: bool) -> None:
        self._export, self.name, self.read_only = export, name, read_only

    listed = False
    description = ""

    @property
    def size(self) -> int:  # type: ignore[override]
        return self._export.size

    @property
    def block_size(self) -> int:  # type: ignore[override]
        return self._export.block_size

    def flags(self) -> int:
        flags = self._export.flags()
        return flags & ~_CHANGES | nbd.TFLAG_READ_ONLY if self.read_only else flags

    def contexts(self, query: str) -> list[str]:
        return self._export.contexts(query)

    def context_id(self, name: str) -> int:
        return self._export.context_id(name)


class ReadOnly(Presented):
    """An export under its own name to somebody who may only read."""

    def __init__(self, export: ExportInfo) -> None:
        super().__init__(export, export.name, True)
        self.listed, self.description = export.listed, export.description


_CHANGES = nbd.TFLAG_SEND_FUA | nbd.TFLAG_SEND_TRIM | nbd.TFLAG_SEND_WRITE_ZEROES | nbd.TFLAG_SEND_FAST_ZERO

Steps = Generator[int, bytes, Agreement]


class Negotiation:
    """One negotiation.  ``tls`` is None where not offered, else called to upgrade the connection."""

    def __init__(
        self, export: ExportInfo, say: Callable[[bytes], object], tls: Callable[[], None] | None
    ) -> None:
        self._export, self._say, self._tls = export, say, tls
        self.agreed = Agreement()
        self.greeted = False
        """the client's flags were received"""
        self.head: bytes | None = b""
        """what was received of an option under way; None when that cannot be told any more"""

    def run(self) -> Steps:
        """Negotiate; raises ProtocolError when the connection is to be closed."""
        flags = nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES
        self._say(nbd.HELLO.pack(nbd.INIT_MAGIC, nbd.OPTION_MAGIC, flags))
        (client,) = nbd.CLIENT_FLAGS.unpack((yield nbd.CLIENT_FLAGS.size))
        if client & ~flags:
            raise ProtocolError(f"unknown client flags {client:#x}")
        self.agreed.no_zeroes = bool(client & nbd.FLAG_NO_ZEROES)
        return (yield from self.go_on())

    def go_on(self, agreed: Agreement | None = None) -> Steps:
        """Negotiate options, where somebody else agreed on something before."""
        self.agreed, self.greeted = agreed or self.agreed, True
        while True:
            head = yield nbd.OPTION.size
            magic, option, length = nbd.OPTION.unpack(head)
            if magic != nbd.OPTION_MAGIC:
                raise ProtocolError("an option without its magic number")
            self.head = head if length <= MAX_OPTION else None
            data = yield from self._option_data(length)
            self.head = b""
            if self._answer(option, data):
                return self.agreed

    def _option_data(self, length: int) -> Generator[int, bytes, bytes | None]:
        """Give the data of an option, None when it is longer than any we know."""
        if length <= MAX_OPTION:
            return (yield length) if length else b""
        while length:
            part = min(length, MAX_OPTION)
            yield part
            length -= part
        return None

    def _answer(self, option: int, data: bytes | None) -> bool:
        """Answer one option; True when transmission begins."""
        needs_tls = self._tls is not None and not self.agreed.tls
        if option == nbd.OPT_EXPORT_NAME:
            return self._export_name(data, needs_tls)
        if option == nbd.OPT_ABORT:
            self._reply(option, nbd.REP_ACK)
            raise ProtocolError("the client ended the negotiation")
        if data is None:
            self._refuse(option, nbd.REP_ERR_TOO_BIG, "option too long")
        elif option == nbd.OPT_STARTTLS:
            self._start_tls(option, data)
        elif needs_tls:
            self._refuse(option, nbd.REP_ERR_TLS_REQD, "this server wants TLS")
        elif option in (nbd.OPT_INFO, nbd.OPT_GO):
            return self._info(option, data)
        elif handler := _HANDLERS.get(option):
            handler(self, option, data)
        else:
            self._refuse(option, nbd.REP_ERR_UNSUP, "unknown option")
        return False

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._say(nbd.OPTION_REPLY.pack(nbd.OPTION_REPLY_MAGIC, option, kind, len(data)) + data)

    def _refuse(self, option: int, kind: int, why: str) -> None:
        self._reply(option, kind, why.encode())

    def _knows(self, name: bytes) -> bool:
        """Say whether the client means our export: by its name, or by none."""
        return name in (b"", self._export.name.encode())

    def _flags(self) -> int:
        return self._export.flags() | (nbd.TFLAG_SEND_DF if self.agreed.structured else 0)

    def _export_name(self, data: bytes | None, needs_tls: bool) -> bool:
        # This option cannot be refused but by closing the connection.
        if needs_tls or data is None or not self._knows(data):
            raise ProtocolError("EXPORT_NAME for an export that cannot be had")
        padding = b"" if self.agreed.no_zeroes else bytes(124)
        self._say(nbd.EXPORT_NAME_REPLY.pack(self._export.size, self._flags()) + padding)
        return True

    def _start_tls(self, option: int, data: bytes) -> None:
        if data:
            self._refuse(option, nbd.REP_ERR_INVALID, "STARTTLS takes no data")
        elif self.agreed.tls:
            self._refuse(option, nbd.REP_ERR_INVALID, "TLS is on already")
        elif self._tls is None:
            self._refuse(option, nbd.REP_ERR_POLICY, "this server has no TLS")
        else:
            self._reply(option, nbd.REP_ACK)
            self._tls()
            # What was agreed in the clear may have been said by anyone.
            self.agreed = Agreement(no_zeroes=self.agreed.no_zeroes, tls=True)

    def _info(self, option: int, data: bytes) -> bool:
        name, wanted = _parse_info(data)
        if name is None:
            self._refuse(option, nbd.REP_ERR_INVALID, "malformed request for information")
            return False
        if not self._knows(name):
            self._refuse(option, nbd.REP_ERR_UNKNOWN, "there is no such export")
            return False
        export = self._export
        block_sizes = nbd.INFO_BLOCK_SIZE_DATA.pack(
            nbd.INFO_BLOCK_SIZE, 1, max(export.block_size, 4096), nbd.MAX_REQUEST
        )
        answers = {
            nbd.INFO_NAME: _info_text(nbd.INFO_NAME, export.name),
            nbd.INFO_DESCRIPTION: _info_text(nbd.INFO_DESCRIPTION, export.description),
        }
        for kind in dict.fromkeys(wanted):
            if kind in answers:
                self._reply(option, nbd.REP_INFO, answers[kind])
        self._reply(option, nbd.REP_INFO, block_sizes)
        self._reply(
            option, nbd.REP_INFO, nbd.INFO_EXPORT_DATA.pack(nbd.INFO_EXPORT, export.size, self._flags())
        )
        self._reply(option, nbd.REP_ACK)
        return option == nbd.OPT_GO

    def _list(self, option: int, data: bytes) -> None:
        if data:
            self._refuse(option, nbd.REP_ERR_INVALID, "LIST takes no data")
        elif not self._export.listed:
            self._refuse(option, nbd.REP_ERR_POLICY, "exports are not listed here")
        else:
            name = self._export.name.encode()
            self._reply(option, nbd.REP_SERVER, len(name).to_bytes(4, "big") + name)
            self._reply(option, nbd.REP_ACK)

    def _structured_reply(self, option: int, data: bytes) -> None:
        if data:
            self._refuse(option, nbd.REP_ERR_INVALID, "STRUCTURED_REPLY takes no data")
            return
        self.agreed.structured = True
        self._reply(option, nbd.REP_ACK)

    def _meta_context(self, option: int, data: bytes) -> None:
        setting = option == nbd.OPT_SET_META_CONTEXT
        if setting:
            self.agreed.contexts = []  # the last request counts, also when it fails
        parsed = _parse_queries(data)
        if setting and not self.agreed.structured:
            self._refuse(option, nbd.REP_ERR_INVALID, "structured replies come first")
        elif parsed is None:
            self._refuse(option, nbd.REP_ERR_INVALID, "malformed metadata query")
        elif not self._knows(parsed[0]):
            self._refuse(option, nbd.REP_ERR_UNKNOWN, "there is no such export")
        else:
            self._give_contexts(option, setting, parsed[1])

    def _give_contexts(self, option: int, setting: bool, queries: list[str]) -> None:
        found: dict[str, int] = {}
        # A wildcard only lists: setting wants full names.
        for query in queries if setting else queries or [""]:
            for name in self._export.contexts(query):
                if not setting or name == query:
                    found[name] = self._export.context_id(name)
        for name, number in found.items():
            data = nbd.CONTEXT_ID.pack(number if setting else 0) + name.encode()
            self._reply(option, nbd.REP_META_CONTEXT, data)
        if setting:
            self.agreed.contexts = [(number, name) for name, number in found.items()]
        self._reply(option, nbd.REP_ACK)


_HANDLERS: dict[int, Callable[[Negotiation, int, bytes], None]] = {
    nbd.OPT_LIST: Negotiation._list,
    nbd.OPT_STRUCTURED_REPLY: Negotiation._structured_reply,
    nbd.OPT_LIST_META_CONTEXT: Negotiation._meta_context,
    nbd.OPT_SET_META_CONTEXT: Negotiation._meta_context,
}


def _info_text(kind: int, text: str) -> bytes:
    return kind.to_bytes(2, "big") + text.encode()


def _parse_info(data: bytes) -> tuple[bytes | None, list[int]]:
    """Give the export name and wanted kinds of an INFO or GO option; (None, []) when malformed.

    32 bits name length, name, 16 bits number of kinds, 16 bits each.
    """
    length = int.from_bytes(data[:4], "big")
    count = int.from_bytes(data[4 + length : 6 + length], "big")
    if len(data) < 6 or length > nbd.MAX_STRING or len(data) != 6 + length + 2 * count:
        return None, []
    kinds = data[6 + length :]
    return data[4 : 4 + length], [int.from_bytes(kinds[at : at + 2], "big") for at in range(0, 2 * count, 2)]


def _parse_queries(data: bytes) -> tuple[bytes, list[str]] | None:
    """Give export name and queries of a metadata option, None when malformed.

    32 bits name length, name, 32 bits number of queries, then 32 bits length and text of each.
    """
    strings: list[bytes] = []
    position, wanted, count = 0, 1, 0
    while len(strings) < wanted + count:
        length = int.from_bytes(data[position : position + 4], "big")
        if length > nbd.MAX_STRING or position + 4 + length > len(data):
            return None
        strings.append(data[position + 4 : position + 4 + length])
        position += 4 + length
        if len(strings) == 1:
            if position + 4 > len(data):
                return None
            count = int.from_bytes(data[position : position + 4], "big")
            position += 4
    if position != len(data):
        return None
    try:
        return strings[0], [query.decode() for query in strings[1:]]
    except UnicodeDecodeError:
        return None
