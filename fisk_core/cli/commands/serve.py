# SPDX-License-Identifier: Apache-2.0
"""``fisk serve``."""

import argparse
import os
import socket
from contextlib import closing
from typing import TYPE_CHECKING

from fisk_core.cli.base import FiskCommand
from fisk_core.errors import InvalidValue, from_oserror

if TYPE_CHECKING:
    from fisk_core.dataplane.server import ServeOptions
    from fisk_core.dataplane.tls import TlsOptions
    from fisk_core.engine import Engine
    from fisk_core.model import Fisk


class Serve(FiskCommand):
    """Serve a Fisk over NBD until stopped; prints the URI when ready.

    A frozen Fisk is served read-only.  While it is served a Fisk can be snapshotted, cloned, reverted and
    resized.  Ctrl-C or SIGTERM make everything durable and end it.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name or id.")
        parser.add_argument(
            "--socket",
            metavar="PATH",
            help="Unix socket; default one in the home directory unless --listen is given.",
        )
        parser.add_argument("--listen", metavar="HOST:PORT", help="Also over TCP; port 0 takes a free one.")
        parser.add_argument("--read-only", action="store_true", help="Serve a live Fisk read-only.")
        parser.add_argument(
            "--export-name", metavar="NAME", help="What clients ask for; default the Fisk's name."
        )
        tls = parser.add_mutually_exclusive_group()
        tls.add_argument(
            "--tls-dir",
            metavar="DIRECTORY",
            help="Require TLS, with server-cert.pem and server-key.pem there.",
        )
        tls.add_argument("--tls-psk", metavar="FILE", help="Require TLS, with the pre-shared keys in FILE.")
        parser.add_argument(
            "--tls-verify",
            action="store_true",
            help="Ask clients for certificates of ca-cert.pem in --tls-dir.",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from fisk_core.dataplane.launch import exec_worker

        with closing(self.embedded()) as engine:
            fisk = engine.get(parsed_args.name)
            read_only = fisk.frozen or parsed_args.read_only
            options = _options(engine, fisk, parsed_args, read_only)
            lock = engine.acquire(fisk.id, not read_only)
            spec = engine.disk_spec(fisk.id, read_only)
        exec_worker(spec, options, lock.fd)


def _options(
    engine: "Engine", fisk: "Fisk", parsed_args: argparse.Namespace, read_only: bool
) -> "ServeOptions":
    from fisk_core.dataplane.server import ServeOptions

    if parsed_args.tls_verify and not parsed_args.tls_dir:
        raise InvalidValue("--tls-verify needs --tls-dir")
    alone = not read_only or _is_first_reader(fisk.id)
    unix = parsed_args.socket
    if unix is None and parsed_args.listen is None:
        usual = engine.home.socket(fisk.id)
        unix = str(usual if alone else usual.with_suffix(f".{os.getpid()}.nbd"))
    return ServeOptions(
        unix=unix,
        listen=address(parsed_args.listen) if parsed_args.listen else None,
        control=str(engine.home.control(fisk.id)) if alone else None,
        export=parsed_args.export_name,
        tls=_tls(parsed_args),
        announce=True,
    )


def _is_first_reader(fisk_id: str) -> bool:
    """Whether no other reader has what only one can have: the usual socket, and the control socket.

    A name without a file, that goes with the process (this one and, by the open descriptor, the worker it
    becomes), so that of readers started at once exactly one is the first.
    """
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0fisk-first-reader-of-{fisk_id}")
    except OSError:
        mark.close()
        return False
    os.set_inheritable(mark.detach(), True)
    return True


def _tls(parsed_args: argparse.Namespace) -> "TlsOptions | None":
    from fisk_core.dataplane.tls import TlsOptions, server_context

    if not parsed_args.tls_dir and not parsed_args.tls_psk:
        return None
    options = TlsOptions(parsed_args.tls_dir, parsed_args.tls_psk, parsed_args.tls_verify)
    server_context(options)  # complains now, not in the worker
    return options


def address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``, ``[IPv6]:PORT`` or ``:PORT``; raises InvalidValue, and PoolError if it is taken."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 0xFFFF:
        raise InvalidValue(f"'{text}' is not an address; write HOST:PORT")
    found = host.removeprefix("[").removesuffix("]"), int(port)
    try:
        socket.create_server(found).close()  # complains now, not in the worker
    except OSError as exc:
        raise from_oserror(exc, f"listen at {text}") from exc
    return found
