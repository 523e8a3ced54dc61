# SPDX-License-Identifier: Apache-2.0
"""HTTP over unix sockets for ``requests``, on top of requests-unixsocket.

Added to what that library does: one kept connection for all paths below a socket (it keeps one for each URL),
sockets at paths longer than 107 bytes, and a socket that could not connect is closed.
"""

import socket
from typing import Any
from urllib.parse import unquote, urlsplit

from requests_unixsocket.adapters import UnixAdapter, UnixHTTPConnection, UnixHTTPConnectionPool
from urllib3.exceptions import NewConnectionError

from fisk_core.dataplane import unixsocket


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        path = unquote(urlsplit(self.unix_socket_url).netloc)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            unixsocket.connect(sock, path)
        except OSError as exc:
            sock.close()
            raise NewConnectionError(self, f"connect to {path}: {exc.strerror or exc}") from exc
        self.sock = sock


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> _Connection:
        return _Connection(self.socket_path, self.timeout)  # type: ignore[no-untyped-call]


class Adapter(UnixAdapter):
    """Serves URLs of the form ``http+unix://%2Fpath%2Fof.sock/…``."""

    def get_connection(self, url: str | bytes, proxies: Any = None) -> _Pool:
        base = f"http+unix://{urlsplit(str(url)).netloc}"
        with self.pools.lock:
            pool = self.pools.get(base)
            if pool is None:
                pool = self.pools[base] = _Pool(base, self.timeout)  # type: ignore[no-untyped-call]
        return pool
