# SPDX-License-Identifier: Apache-2.0
"""Commands on things of a daemon that are named by their ids: jobs, locks, schedules, tokens."""

import argparse
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fisk_core.cli.base import FiskCommand, FiskShow

if TYPE_CHECKING:
    from fisk_core.client import RemoteEngine


class ForEach(FiskCommand):
    """Does one thing to each of those that are named, in their order; the first error ends it."""

    named: ClassVar[Mapping[str, Any]] = {"metavar": "ID"}
    """how they are named, as argparse wants it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ids", nargs="+", **self.named)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with self.daemon() as engine:
            for each in parsed_args.ids:
                self.act(engine, each)

    @abstractmethod
    def act(self, engine: "RemoteEngine", id: str) -> None: ...


class ShowById(FiskShow):
    """Prints the fields of one."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", metavar="ID")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            return self.fields(self.find(engine, parsed_args.id))

    @abstractmethod
    def find(self, engine: "RemoteEngine", id: str) -> Mapping[str, Any]: ...
