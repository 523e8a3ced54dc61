# SPDX-License-Identifier: Apache-2.0
"""Every error Fisk reports: one root, few leaves.

A class carries all its faces: the exit status of the command, the ``errno`` (also what an NBD client
gets) and the HTTP status.  ``tests/unit/test_errors.py`` checks that exit statuses are distinct.
"""

import errno


class FiskError(Exception):
    """Something Fisk could not do; the message is one clear line."""

    exit_status = 1
    errno = errno.EIO
    http_status = 500


class NotFound(FiskError):
    """There is no such Fisk, pool, layer or file."""

    exit_status = 3
    errno = errno.ENOENT
    http_status = 404


class AlreadyExists(FiskError):
    """The name or id is taken."""

    exit_status = 4
    errno = errno.EEXIST
    http_status = 409


class InvalidValue(FiskError):
    """A size, name, offset or option that makes no sense."""

    exit_status = 5
    errno = errno.EINVAL
    http_status = 400


class InUse(FiskError):
    """The Fisk is being served or written by a process."""

    exit_status = 6
    errno = errno.EBUSY
    http_status = 409


class NoSpace(FiskError):
    """The storage below is full; nothing acknowledged was lost."""

    exit_status = 7
    errno = errno.ENOSPC
    http_status = 507


class Corrupt(FiskError):
    """Stored metadata or data does not match its checksum or contradicts itself."""

    exit_status = 8
    errno = errno.EIO
    http_status = 500


class ImageRefused(FiskError):
    """The image file is damaged, lies about its format, or refers to other files of the host."""

    exit_status = 9
    errno = errno.EPERM
    http_status = 422


class ReadOnly(FiskError):
    """A write to a frozen Fisk, or to a layer whose medium failed."""

    exit_status = 10
    errno = errno.EROFS
    http_status = 409


class Unsupported(FiskError):
    """This pool, platform or build cannot do that."""

    exit_status = 11
    errno = errno.EOPNOTSUPP
    http_status = 501


class MissingTool(FiskError):
    """A program Fisk calls (qemu-img, qemu-nbd) is not installed."""

    exit_status = 12
    errno = errno.ENOSYS
    http_status = 501


class PoolError(FiskError):
    """The storage below failed; the message names the file and what the system said."""

    exit_status = 13
    errno = errno.EIO
    http_status = 500


class LimitExceeded(FiskError):
    """A documented limit (size, number of layers, request length) would be passed."""

    exit_status = 14
    errno = errno.EOVERFLOW
    http_status = 413


class ProtocolError(FiskError):
    """The other side of a connection broke the NBD protocol, or refused what was asked."""

    exit_status = 15
    errno = errno.EPROTO
    http_status = 502


class Cancelled(FiskError):
    """Stopped on request; what was begun has been undone."""

    exit_status = 16
    errno = errno.ECANCELED
    http_status = 409


class Unauthenticated(FiskError):
    """Who asks is not known: no token, an unknown one, or one that has expired."""

    exit_status = 17
    errno = errno.EACCES
    http_status = 401


class Forbidden(FiskError):
    """Who asks is known and may not do that."""

    exit_status = 18
    errno = errno.EACCES
    http_status = 403


class Overloaded(FiskError):
    """Too many requests, streams or jobs at once; try again a little later."""

    exit_status = 19
    errno = errno.EAGAIN
    http_status = 429


class Unavailable(FiskError):
    """The daemon cannot be reached, or did not answer in time; what it was asked may have been done."""

    exit_status = 20
    errno = errno.EHOSTDOWN
    http_status = 503


class Fenced(ReadOnly):
    """Another host took over writing the Fisk; this one must not touch it any more."""

    exit_status = 21
    errno = errno.ESHUTDOWN
    http_status = 409


_FROM_ERRNO = {
    errno.ENOENT: NotFound,
    errno.EEXIST: AlreadyExists,
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EROFS: ReadOnly,
    errno.EFBIG: LimitExceeded,
    errno.EOPNOTSUPP: Unsupported,
}


def from_oserror(exc: OSError, what: str) -> FiskError:
    """Give the typed error for ``exc``; ``what`` says what was being done, e.g. ``"write layer 5f…"``."""
    kind = _FROM_ERRNO.get(exc.errno or 0, PoolError)
    return kind(f"{what}: {exc.strerror or exc}")


def by_name(name: str) -> type[FiskError]:
    """Give the class called ``name``, or FiskError: for errors that crossed a process boundary."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, FiskError) else FiskError


def by_status(status: int) -> type[FiskError]:
    """Give the class with an exit status, or FiskError: for errors of a process that ended."""
    kinds = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, FiskError)]
    return next((kind for kind in kinds if kind.exit_status == status), FiskError)
