# SPDX-License-Identifier: Apache-2.0
"""TLS for NBD connections: certificates as QEMU and libnbd lay them out, or a pre-shared key file.

Imported only where TLS is used: it takes a quarter of a worker's memory.
"""

import logging
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fisk_core.dataplane.loop import Loop
from fisk_core.dataplane.renewal import LOOK_SECONDS, Renewal
from fisk_core.dataplane.spec import TlsOptions
from fisk_core.errors import FiskError, InvalidValue, NotFound, Unsupported, from_oserror

__all__ = ["TlsOptions", "TlsSocket", "keep_current", "read_psk", "server_context"]

LOG = logging.getLogger(__name__)


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """Give the context for serving; raises NotFound, InvalidValue or Unsupported."""
    if options.psk_file:
        return _psk_context(read_psk(options.psk_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    directory = Path(options.directory or "")
    try:
        context.load_cert_chain(directory / "server-cert.pem", directory / "server-key.pem")
        if options.verify:
            context.load_verify_locations(directory / "ca-cert.pem")
            context.verify_mode = ssl.CERT_REQUIRED
    except FileNotFoundError as exc:
        raise NotFound(
            f"{directory} must hold server-cert.pem, server-key.pem"
            f"{' and ca-cert.pem' if options.verify else ''}"
        ) from exc
    except ssl.SSLError as exc:
        raise InvalidValue(f"the certificate or key in {directory} cannot be used: {exc.reason}") from exc
    except OSError as exc:
        raise from_oserror(exc, f"read the certificate or key in {directory}") from exc
    return context


def keep_current(loop: Loop, options: TlsOptions, use: Callable[[ssl.SSLContext], None]) -> ssl.SSLContext:
    """Give the context for serving, and have ``use`` called with another whenever its files were replaced.

    Connections that there are keep theirs.  Files that cannot be used are told of in the log, once, and
    leave things as they are.  Raises what ``server_context`` raises.
    """
    directory = Path(options.directory or "")
    names = ("server-cert.pem", "server-key.pem", *(("ca-cert.pem",) if options.verify else ()))
    renewal = Renewal([options.psk_file] if options.psk_file else [directory / name for name in names])

    def look() -> None:
        if renewal.changed():
            try:
                use(server_context(options))
            except FiskError as exc:
                LOG.error("TLS goes on with what it had: %s", exc)
            else:
                LOG.info("TLS uses what is in %s now", options.psk_file or directory)
        loop.later(LOOK_SECONDS, look)

    context = server_context(options)
    loop.later(LOOK_SECONDS, look)
    return context


def read_psk(path: str) -> dict[str, bytes]:
    """Give identity → key from a file as ``psktool`` of GnuTLS writes it; raises NotFound or InvalidValue."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        pairs = [line.split(":", 1) for line in lines if line.strip()]
        return {identity: bytes.fromhex(key) for identity, key in pairs}
    except FileNotFoundError as exc:
        raise NotFound(f"there is no key file {path}") from exc
    except ValueError as exc:
        raise InvalidValue(f"{path} must hold lines of identity:hex-key") from exc


def _psk_context(keys: dict[str, bytes]) -> ssl.SSLContext:
    if sys.version_info < (3, 13):
        raise Unsupported("TLS with a pre-shared key needs Python 3.13; use certificates")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Python gives keys to OpenSSL's TLS 1.2 callback only.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("PSK")
    context.set_psk_server_callback(lambda identity: keys.get(identity or "", b""))
    return context


class TlsSocket:
    """A TLS connection with the few calls of a non-blocking socket that a Connection uses.

    What a plain socket reports as BlockingIOError is reported as that, whichever direction TLS waits for.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Take over ``sock``; raises OSError where the client is gone already."""
        sock.getpeername()  # of such a one, what wraps it would leave a socket open that nobody has
        self._sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._pending: bytes | None = None

    def fileno(self) -> int:
        return self._sock.fileno()

    def recv_into(self, view: memoryview) -> int:
        try:
            return self._sock.recv_into(view)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
            raise BlockingIOError from exc
        except ssl.SSLEOFError:
            return 0

    def pending(self) -> bool:
        """Say whether bytes were received that epoll will not tell of."""
        return self._sock.pending() > 0

    def send(self, data: "bytes | memoryview", flags: int = 0) -> int:
        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
            raise BlockingIOError from exc

    def sendmsg(self, parts: Sequence["bytes | memoryview"]) -> int:
        return self.send(b"".join(parts))

    def close(self) -> None:
        self._sock.close()
