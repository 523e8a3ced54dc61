# SPDX-License-Identifier: Apache-2.0
"""What all commands share, in ``fisk`` and in ``openstack fisk`` alike.

A command ends with a status: an error of ``fisk_core.errors`` becomes one line on standard error and its
``exit_status``, in both programs; ``--debug`` shows the traceback too.
"""

import argparse
import os
import signal
import socket
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cliff.command import Command
from cliff.display import DisplayCommandBase
from cliff.lister import Lister
from cliff.show import ShowOne

from fisk_core.cli.columns import shown
from fisk_core.config import Home
from fisk_core.dataplane import unixsocket
from fisk_core.errors import FiskError, InvalidValue, Unavailable, from_oserror
from fisk_core.text import printable

if TYPE_CHECKING:
    from fisk_core.client import RemoteEngine
    from fisk_core.engine import Engine
    from fisk_core.protocol import Verbs


class FiskCommand(Command):
    """A command on the Fisks of one home directory, or of a daemon."""

    auth_required = False
    """for the OpenStack client: nothing here asks Keystone"""
    status = 0
    """what a command that ran to its end exits with"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        self._parser = super().get_parser(prog_name)
        usual = self._parser.error
        self._parser.error = lambda message: usual(printable(message))  # type: ignore[method-assign]
        return self._parser

    def misuse(self, message: str) -> NoReturn:
        """End with status 2: the words make no sense together, whatever Fisks there are."""
        self._parser.error(message)

    def run(self, parsed_args: argparse.Namespace) -> int:
        try:
            status = super().run(parsed_args) or self.status
            self.app.stdout.flush()
            return status
        except FiskError as exc:
            return self._fail(exc) if not isinstance(exc.__cause__, BrokenPipeError) else unread()
        except BrokenPipeError:
            return unread()
        except OSError as exc:
            if exc.filename is None:
                forget_output()
            return self._fail(from_oserror(exc, str(exc.filename or "write the output")))

    def _fail(self, error: FiskError) -> int:
        if self.app.options.debug:
            traceback.print_exc(file=self.app.stderr)
        self.app.stderr.write(f"fisk: {printable(str(error))}\n")
        return error.exit_status

    def get_epilog(self) -> str:
        # cliff's own reads the file lists of all installed distributions to name the one we are from.
        return self._epilog or ""

    def engine(self) -> "Verbs":
        """Open the engine that was chosen: a daemon's where there is one; a context manager."""
        url = self._url()
        return self.embedded() if url is None else self._remote(url)

    def embedded(self) -> "Engine":
        """Open the engine of this process; a context manager."""
        from fisk_core.engine import Engine

        return Engine.open(self._home)

    def daemon(self) -> "RemoteEngine":
        """Give the engine of the daemon, for what only a daemon does; raises Unavailable."""
        url = self._url()
        if url is None:
            raise Unavailable("this needs a daemon, and none answers for this home directory; start fiskd")
        return self._remote(url)

    def is_remote(self) -> bool:
        """Whether a daemon was named that need not be on this host."""
        return bool(self.app.options.fisk_url or os.environ.get("FISK_URL")) and not self._embedded

    @property
    def _home(self) -> Path | None:
        home = self.app.options.fisk_home
        return Path(home) if home else None

    @property
    def _embedded(self) -> bool:
        return bool(self.app.options.fisk_embedded)

    def _url(self) -> str | None:
        """Give where the daemon is, None to do without."""
        if self._embedded:
            return None
        chosen = self.app.options.fisk_url or os.environ.get("FISK_URL")
        if chosen:
            return str(chosen)
        path = (Home(self._home.absolute()) if self._home else Home.default()).run / "fiskd.sock"
        return f"unix://{path}" if _answers(path) else None

    def _remote(self, url: str) -> "RemoteEngine":
        from fisk_core.client import RemoteEngine

        return RemoteEngine.open(url, cacert=self.app.options.fisk_cacert, home=self._home)

    def say(self, text: str) -> None:
        """Tell people something that no program reads; ``--quiet`` keeps it back."""
        if self.app.options.verbose_level:
            self.app.stderr.write(f"{printable(text)}\n")


def _answers(path: Path) -> bool:
    """Whether somebody listens at a unix socket."""
    if not path.exists():
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            unixsocket.connect(probe, path)
        except OSError:
            return False
    return True


def unread() -> int:
    """Nobody reads our output any more: end without a word; gives the status."""
    forget_output()
    return 128 + signal.SIGPIPE


def forget_output() -> None:
    """Keep the interpreter from flushing once more, and complaining, at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


class _Displaying(FiskCommand, DisplayCommandBase[Any]):
    def _generate_columns_and_selector(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str]
    ) -> tuple[list[str], list[bool] | None]:
        try:
            return super()._generate_columns_and_selector(parsed_args, column_names)
        except ValueError as exc:
            wanted, known = ", ".join(parsed_args.columns), ", ".join(column_names)
            raise InvalidValue(f"there is no column '{wanted}'; there are {known}") from exc


class FiskLister(_Displaying, Lister):
    """A command that prints rows."""

    def produce_output(self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any) -> int:
        rows = (tuple(map(shown, each)) for each in data)
        status: int = super().produce_output(parsed_args, column_names, rows)
        return status


class FiskShow(_Displaying, ShowOne):
    """A command that prints the fields of one thing."""

    def produce_output(self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any) -> int:
        status: int = super().produce_output(parsed_args, column_names, tuple(map(shown, data)))
        return status

    def fields(self, values: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        return tuple(values), tuple(values.values())
