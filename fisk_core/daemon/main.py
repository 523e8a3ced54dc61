# SPDX-License-Identifier: Apache-2.0
"""The program ``fiskd``."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fisk_core import __version__, locks
from fisk_core.config import Home
from fisk_core.errors import FiskError, InUse, NotFound

STOP_SECONDS = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; gives the exit status of the error, if there was one."""
    given = _parser().parse_args(arguments)
    home = Home(Path(given.home).absolute()) if given.home else Home.default()
    try:
        given.run(home, given)
    except FiskError as exc:
        print(f"fiskd: {exc}", file=sys.stderr)
        return exc.exit_status
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fiskd", description="The control plane of one host.")
    parser.add_argument("--version", action="version", version=f"fiskd {__version__}")
    parser.add_argument("--home", metavar="DIR", help="default: $FISK_HOME, else the user's data directory")
    parser.set_defaults(run=_run)
    commands = parser.add_subparsers(metavar="COMMAND", title="without a command it runs until told to stop")
    stop = commands.add_parser("stop", help="end the running daemon")
    stop.add_argument("--drain", action="store_true", help="and every worker, when its work is done")
    stop.set_defaults(run=_stop)
    token = commands.add_parser("token", help="bearer tokens, also while no daemon runs")
    actions = token.add_subparsers(metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a token and print its secret")
    create.add_argument("name")
    create.add_argument("--role", choices=("reader", "operator", "admin"), default="reader")
    create.add_argument("--days", type=int, metavar="N", help="it expires after so many days")
    create.set_defaults(run=_create_token)
    shown = actions.add_parser("list", help="list the tokens")
    shown.set_defaults(run=_list_tokens)
    delete = actions.add_parser("delete", help="remove a token, by name or id")
    delete.add_argument("name")
    delete.set_defaults(run=_delete_token)
    return parser


def _run(home: Home, _: argparse.Namespace) -> None:
    from fisk_core.daemon import daemon, logs, options

    home.make()
    conf = options.read(home)
    logs.set_up(conf)
    daemon.run(home, conf)


def _stop(home: Home, given: argparse.Namespace) -> None:
    """End the daemon of a home directory and wait for it; raises NotFound when there is none."""
    path = home.run / "fiskd.lock"
    if not locks.is_held(path):
        raise NotFound(f"no fiskd serves {home.path}")
    text = path.read_text().strip()
    if not text.isdigit():
        raise InUse(f"the fiskd of {home.path} is just starting or ending; try again")
    # A descriptor, so that the signal cannot hit another process with the same number.
    process = os.pidfd_open(int(text))
    try:
        if locks.is_held(path):
            signal.pidfd_send_signal(process, signal.SIGUSR2 if given.drain else signal.SIGTERM)
    finally:
        os.close(process)
    deadline = time.monotonic() + STOP_SECONDS
    while locks.is_held(path):
        if time.monotonic() > deadline:
            raise InUse(f"the fiskd of {home.path} does not end")
        time.sleep(0.05)


def _create_token(home: Home, given: argparse.Namespace) -> None:
    from fisk_core.api import credentials
    from fisk_core.engine import Engine

    with Engine.open(home.path) as engine:
        seconds = given.days * 86400 if given.days is not None else None
        print(credentials.make(engine.catalog, given.name, given.role, seconds).secret)


def _list_tokens(home: Home, _: argparse.Namespace) -> None:
    from fisk_core.catalog import tokens
    from fisk_core.engine import Engine

    with Engine.open(home.path) as engine, engine.catalog.read() as conn:
        for token in tokens.every(conn):
            expires = token.expires.isoformat() if token.expires else "never"
            print(f"{token.id}  {token.role:8}  {expires:25}  {token.name}")


def _delete_token(home: Home, given: argparse.Namespace) -> None:
    from fisk_core.catalog import tokens
    from fisk_core.engine import Engine

    with Engine.open(home.path) as engine, engine.catalog.change() as conn:
        if not tokens.remove(conn, given.name):
            raise NotFound(f"there is no token '{given.name}'")
