# SPDX-License-Identifier: Apache-2.0
"""``openstack fisk list``."""

import argparse
from typing import Any

from fisk_core.cli.columns import Size, Text, Time, labels
from fisk_core.cli.commands import list as plain
from fisk_core.model import Fisk
from fisk_core.protocol import Verbs
from fisk_openstack.cli.base import CloudCommand
from fisk_openstack.cli.columns import HEADINGS, row
from fisk_openstack.labels import PROJECT, SERVER, Kind
from fisk_openstack.things import things

_MORE = ("Referenced", "Exclusive", "Fisk", "Parent ID", "Created At", "Attributes")
KINDS = tuple(kind.word for kind in Kind)


class List(CloudCommand, plain.List):
    """List Fisks with what they are to the cloud: images, volumes, snapshots, backups, disks of servers.

    Without a cloud's credentials, names are those from when the Fisks were made.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--kind", choices=KINDS, help="Only these.")
        parser.add_argument("--server", metavar="ID", help="Only the disks of this server.")
        parser.add_argument("--project", metavar="ID", help="Only those of this project.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        wanted = {SERVER: parsed_args.server, PROJECT: parsed_args.project}
        with self.engine() as engine:
            fisks = self.matching(engine, parsed_args, **{key: own for key, own in wanted.items() if own})
            found = [each for each in things(fisks, self.cloud()) if parsed_args.kind in (None, each.kind)]
            found.sort(key=lambda each: (each.name, each.kind, each.fisk.name))
            if parsed_args.long:
                return (*HEADINGS, *_MORE), [(*row(each), *_more(engine, each.fisk)) for each in found]
        return HEADINGS, [row(each) for each in found]


def _more(engine: Verbs, fisk: Fisk) -> tuple[Any, ...]:
    usage = engine.usage(fisk.id)
    return (
        Size(usage.referenced),
        Size(usage.exclusive),
        fisk.name,
        Text(fisk.parent_id),
        Time(fisk.created_at.isoformat()),
        labels(fisk.attributes),
    )
