# SPDX-License-Identifier: Apache-2.0
"""Where the daemon listens: a unix socket always, TCP when asked."""

import ipaddress
import os
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

from fisk_core.api.identity import group_id
from fisk_core.config import Home
from fisk_core.dataplane import unixsocket
from fisk_core.errors import InvalidValue, from_oserror

BACKLOG = 1024
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """An address for TCP, and how it is protected."""

    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    tls_cert: str | None
    tls_key: str | None

    @property
    def tls(self) -> bool:
        return self.tls_cert is not None


def unix_socket(home: Home) -> Path:
    return home.run / "fiskd.sock"


def port_file(home: Home) -> Path:
    """Holds the port that TCP listens at."""
    return home.run / "fiskd.port"


def unix(home: Home, group: str | None) -> socket.socket:
    """Listen on the unix socket, in place of one nobody listens at; raises InUse, InvalidValue.

    With a group, its members may pass through the directory of the sockets too, but not look into it; every
    other socket and file there stays the owner's.
    """
    path, gid = unix_socket(home), group_id(group)
    listener = unixsocket.listen(str(path))
    try:
        if gid is not None:
            os.chown(home.run, -1, gid)
            home.run.chmod(0o710)
            os.chown(path, -1, gid)
        path.chmod(0o660)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise from_oserror(exc, f"give {path} to group {group}") from exc
    return listener


def address(conf: cfg.ConfigOpts) -> Address | None:
    """Give where TCP shall listen, None for nowhere.

    Raises InvalidValue for what makes no sense or is not allowed: without TLS beyond loopback never, and with
    it only if that was said in so many words.
    """
    api = conf.api
    if not api.listen:
        return None
    if bool(api.tls_cert) != bool(api.tls_key):
        raise InvalidValue("[api] tls_cert and tls_key belong together")
    found = Address(*_parse(api.listen), api.tls_cert or None, api.tls_key or None)
    if not found.ip.is_loopback and not api.allow_remote:
        raise InvalidValue(f"[api] listen = {api.listen} is beyond loopback; that needs allow_remote = true")
    if not found.ip.is_loopback and not found.tls:
        raise InvalidValue(f"[api] listen = {api.listen} is beyond loopback; that needs tls_cert and tls_key")
    return found


def _parse(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    match = _ADDRESS.fullmatch(text)
    try:
        if match is None:
            raise ValueError("no port")
        host = match["six"] or match["four"]
        port = int(match["port"])
        if port > 65535:
            raise ValueError("no such port")
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host), port
    except ValueError as exc:
        raise InvalidValue(f"[api] listen = {text} is not an IP address and a port: {exc}") from exc


def tcp(where: Address) -> socket.socket:
    """Listen on TCP; raises what the system says as a FiskError."""
    family = socket.AF_INET6 if where.ip.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(where.ip), where.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise from_oserror(exc, f"listen at {where.ip}:{where.port}") from exc
    return listener


def tls_context(where: Address) -> ssl.SSLContext:
    """Give what proves who we are; raises InvalidValue when certificate or key cannot be used."""
    assert where.tls_cert is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(where.tls_cert, where.tls_key)
    except OSError as exc:  # ssl.SSLError is one
        raise InvalidValue(f"[api] tls_cert or tls_key cannot be used: {exc}") from exc
    return context
