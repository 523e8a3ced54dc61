# SPDX-License-Identifier: Apache-2.0
"""The program ``fisk``: global options, and what goes to the terminal when something ends early.

Nobody ever sees a traceback without asking for it (``--debug``).  Exit statuses: 0, those of
``fisk_core.errors``, 2 for wrong usage, and as shells do 128 + the signal that ended it.
"""

import argparse
import logging
import os
import signal
import sys
from types import FrameType
from typing import Any, TextIO

from cliff.app import App
from cliff.command import Command
from cliff.commandmanager import CommandManager

from fisk_core import __version__
from fisk_core.cli.base import forget_output, unread
from fisk_core.errors import from_oserror
from fisk_core.text import printable

_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
_TALKATIVE = ("alembic", "sqlalchemy", "stevedore", "cliff", "markdown_it")


class _Commands(CommandManager):
    """The commands; what is a command's whole name is never taken for the beginning of others' names.

    cliff would take ``fisk attach s`` for ``fisk attachment show``.
    """

    def find_command(self, argv: list[str]) -> tuple[type[Command], str, list[str]]:
        for count in range(len(argv), 0, -1):
            name = " ".join(argv[:count])
            if name in self.commands:
                return self.commands[name].load(), name, argv[count:]
        found: tuple[type[Command], str, list[str]] = super().find_command(argv)
        return found


class FiskApp(App):
    """Disk, volume, snapshot and image as one resource"""

    NAME = "fisk"
    LOG = logging.getLogger("fisk")

    def __init__(self) -> None:
        super().__init__(
            description=self.__doc__,
            version=__version__,
            command_manager=_Commands("fisk.cli"),
            deferred_help=True,
        )

    def build_option_parser(
        self, description: str | None, version: str | None, argparse_kwargs: dict[str, Any] | None = None
    ) -> argparse.ArgumentParser:
        # Abbreviations of options here would swallow options of the commands.
        parser = super().build_option_parser(
            description, version, {"prog": self.NAME, "allow_abbrev": False, **(argparse_kwargs or {})}
        )
        parser.add_argument(
            "--home",
            dest="fisk_home",
            metavar="DIRECTORY",
            help="Where catalog and default pool are; default $FISK_HOME, else ~/.local/share/fisk.",
        )
        parser.add_argument(
            "--url",
            dest="fisk_url",
            metavar="URL",
            help="The daemon to ask: unix:///PATH or https://HOST:PORT; default $FISK_URL, else the one of "
            "the home directory if it runs.  A token is taken from $FISK_TOKEN.",
        )
        parser.add_argument(
            "--cacert",
            dest="fisk_cacert",
            metavar="FILE",
            help="Certificates of authorities that vouch for the daemon; default $FISK_CACERT.",
        )
        parser.add_argument(
            "--embedded",
            dest="fisk_embedded",
            action="store_true",
            help="Work in this process, also where a daemon runs.",
        )
        return parser

    def configure_logging(self) -> None:
        """Warnings to standard error; ``-v`` shows what is done, ``-vv`` everything."""
        level = _LEVELS[min(self.options.verbose_level, 3)]
        handler: logging.Handler = logging.StreamHandler(self.stderr)
        handler.setFormatter(_LineFormatter())
        root = logging.getLogger()
        root.addHandler(handler)
        if self.options.log_file:
            handler = logging.FileHandler(self.options.log_file)
            handler.setFormatter(logging.Formatter(self.LOG_FILE_MESSAGE_FORMAT))
            root.addHandler(handler)
        root.setLevel(level)
        if level > logging.DEBUG:
            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(max(level, logging.WARNING))

    def run_subcommand(self, argv: list[str]) -> int:
        try:
            self.command_manager.find_command(argv)
        except ValueError:
            nearest = " or ".join(f"'{name}'" for name in self.get_fuzzy_matches(argv[0])[:3])
            guess = f"; did you mean {nearest}?" if nearest else ""
            said = printable(" ".join(argv))
            self.stderr.write(f"fisk: '{said}' is not a command{guess} 'fisk help' lists them\n")
            return 2
        return super().run_subcommand(argv)

    def interact(self) -> None:
        """There is no prompt of our own: the shell is one."""
        self.parser.error("which command? 'fisk --help' lists them")


class _LineFormatter(logging.Formatter):
    """One line for each message, under our name."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, Exception) and not record.exc_info:
            # cliff logs like this what a command did not expect: the text alone would explain nothing.
            text = printable(str(record.msg))
            return f"fisk: unexpected {type(record.msg).__name__}: {text} (--debug shows where)"
        return f"fisk: {super().format(record)}"


def main(argv: list[str] | None = None) -> int:
    """Run one command; gives the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    _open_closed_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)
    try:
        try:
            return FiskApp().run(arguments or ["help"])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        return unread()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as exc:
        error = from_oserror(exc, "write the output")
        forget_output()
        sys.stderr.write(f"fisk: {printable(str(error))}\n")
        return error.exit_status


def _terminate(number: int, frame: FrameType | None) -> None:
    """End by unwinding, so that what a command began is undone."""
    raise SystemExit(128 + number)


def _open_closed_streams() -> None:
    """Let no file of ours take the number of a standard stream we were started without."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)
            if null != number:
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode))


if __name__ == "__main__":
    sys.exit(main())
