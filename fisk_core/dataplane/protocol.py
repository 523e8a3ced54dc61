# SPDX-License-Identifier: Apache-2.0
"""The NBD protocol's numbers and structures, in the order of its specification.

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md — all integers big-endian.
Server and client share this module; neither keeps protocol constants of its own.
"""

import errno
from struct import Struct

# Fixed newstyle negotiation
INIT_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x3E889045565A9

HELLO = Struct(">QQH")
"""64 bits INIT_MAGIC, 64 bits OPTION_MAGIC, 16 bits handshake flags."""
CLIENT_FLAGS = Struct(">I")
OPTION = Struct(">QII")
"""64 bits OPTION_MAGIC, 32 bits option, 32 bits length; then data."""
OPTION_REPLY = Struct(">QIII")
"""64 bits OPTION_REPLY_MAGIC, 32 bits option, 32 bits reply type, 32 bits length; then data."""
EXPORT_NAME_REPLY = Struct(">QH")
"""64 bits size, 16 bits transmission flags; then 124 zero bytes unless NO_ZEROES was agreed."""

FLAG_FIXED_NEWSTYLE = 1 << 0
FLAG_NO_ZEROES = 1 << 1

# Options
OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_STARTTLS = 5
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8
OPT_LIST_META_CONTEXT = 9
OPT_SET_META_CONTEXT = 10
OPT_EXTENDED_HEADERS = 11

# Option replies
REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_META_CONTEXT = 4
REP_FLAG_ERROR = 1 << 31
REP_ERR_UNSUP = REP_FLAG_ERROR | 1
REP_ERR_POLICY = REP_FLAG_ERROR | 2
REP_ERR_INVALID = REP_FLAG_ERROR | 3
REP_ERR_PLATFORM = REP_FLAG_ERROR | 4
REP_ERR_TLS_REQD = REP_FLAG_ERROR | 5
REP_ERR_UNKNOWN = REP_FLAG_ERROR | 6
REP_ERR_SHUTDOWN = REP_FLAG_ERROR | 7
REP_ERR_BLOCK_SIZE_REQD = REP_FLAG_ERROR | 8
REP_ERR_TOO_BIG = REP_FLAG_ERROR | 9

# Information types of INFO and GO
INFO_EXPORT = 0
INFO_NAME = 1
INFO_DESCRIPTION = 2
INFO_BLOCK_SIZE = 3

INFO_EXPORT_DATA = Struct(">HQH")
"""16 bits INFO_EXPORT, 64 bits size, 16 bits transmission flags."""
INFO_BLOCK_SIZE_DATA = Struct(">HIII")
"""16 bits INFO_BLOCK_SIZE, 32 bits minimum, preferred and maximum block size."""

# Transmission flags
TFLAG_HAS_FLAGS = 1 << 0
TFLAG_READ_ONLY = 1 << 1
TFLAG_SEND_FLUSH = 1 << 2
TFLAG_SEND_FUA = 1 << 3
TFLAG_ROTATIONAL = 1 << 4
TFLAG_SEND_TRIM = 1 << 5
TFLAG_SEND_WRITE_ZEROES = 1 << 6
TFLAG_SEND_DF = 1 << 7
TFLAG_CAN_MULTI_CONN = 1 << 8
TFLAG_SEND_RESIZE = 1 << 9
TFLAG_SEND_CACHE = 1 << 10
TFLAG_SEND_FAST_ZERO = 1 << 11

# Transmission
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

REQUEST = Struct(">IHHQQI")
"""32 bits REQUEST_MAGIC, 16 bits flags, 16 bits type, 64 bits cookie, 64 bits offset, 32 bits length."""
SIMPLE_REPLY = Struct(">IIQ")
"""32 bits SIMPLE_REPLY_MAGIC, 32 bits error, 64 bits cookie; then the data of a read."""
CHUNK = Struct(">IHHQI")
"""32 bits STRUCTURED_REPLY_MAGIC, 16 bits flags, 16 bits type, 64 bits cookie, 32 bits length."""

CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_CACHE = 5
CMD_WRITE_ZEROES = 6
CMD_BLOCK_STATUS = 7
CMD_RESIZE = 8

CMD_FLAG_FUA = 1 << 0
CMD_FLAG_NO_HOLE = 1 << 1
CMD_FLAG_DF = 1 << 2
CMD_FLAG_REQ_ONE = 1 << 3
CMD_FLAG_FAST_ZERO = 1 << 4

# Structured reply chunks
CHUNK_FLAG_DONE = 1 << 0
CHUNK_NONE = 0
CHUNK_OFFSET_DATA = 1
CHUNK_OFFSET_HOLE = 2
CHUNK_BLOCK_STATUS = 5
CHUNK_ERROR = (1 << 15) | 1
CHUNK_ERROR_OFFSET = (1 << 15) | 2

CHUNK_OFFSET = Struct(">Q")
DATA_CHUNK = Struct(">IHHQIQ")
"""CHUNK of an OFFSET_DATA chunk and the 64 bits offset that begins its payload."""
CHUNK_HOLE = Struct(">QI")
CHUNK_ERROR_HEAD = Struct(">IH")
"""32 bits error, 16 bits message length; then the message (and for ERROR_OFFSET 64 bits offset)."""
CONTEXT_ID = Struct(">I")
STATUS_EXTENT = Struct(">II")
"""32 bits length, 32 bits status flags of the metadata context."""

# base:allocation
STATE_HOLE = 1 << 0
STATE_ZERO = 1 << 1

CONTEXT_ALLOCATION = "base:allocation"
CONTEXT_DEPTH = "qemu:allocation-depth"
CONTEXT_DIFF = "fisk:diff:"

MAX_STRING = 4096
"""Bytes of an export name or metadata query (the specification's limit)."""
MAX_REQUEST = 32 << 20
"""Bytes of one read or write that every client may send."""

# Error numbers of the protocol (they happen to be Linux's, but the wire does not follow the platform)
EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108

_WIRE_ERRORS = {
    errno.EPERM: EPERM,
    errno.EROFS: EPERM,
    errno.EIO: EIO,
    errno.ENOMEM: ENOMEM,
    errno.EINVAL: EINVAL,
    errno.ENOSPC: ENOSPC,
    errno.EDQUOT: ENOSPC,
    errno.EFBIG: ENOSPC,
    errno.EOVERFLOW: EOVERFLOW,
    errno.EOPNOTSUPP: ENOTSUP,
    errno.ESHUTDOWN: ESHUTDOWN,
}


def wire_error(code: int | None) -> int:
    """Give the protocol's error number for an ``errno``; what it has no word for is EIO."""
    return _WIRE_ERRORS.get(code or 0, EIO)
