# SPDX-License-Identifier: Apache-2.0
"""``openstack fisk show``."""

import argparse
from typing import Any

from fisk_core.cli.base import FiskShow
from fisk_core.cli.columns import Size, Text, Words, details
from fisk_openstack.cli.base import CloudCommand
from fisk_openstack.things import find_thing, things


class Show(CloudCommand, FiskShow):
    """Show a Fisk: what it is to the cloud, what it takes, and who uses it.

    "referenced" are the bytes its map names; "shared" those of them that others name too, and "exclusive" the
    rest, which is what deleting it gives back.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "name", metavar="NAME", help="Name or id, of the Fisk or of what it is to the cloud."
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        cloud = self.cloud()
        with self.engine() as engine:
            fisk = find_thing(engine, parsed_args.name, cloud)
            usage = engine.usage(fisk.id)
            uris = engine.served_at(fisk)
        thing = next(things([fisk], cloud))
        known = {
            "openstack_kind": thing.kind if thing.own else Text(None),
            "openstack_id": Text(thing.own or None),
            "openstack_name": Text(thing.name if thing.own else None),
        }
        taken = {
            "referenced": Size(usage.referenced),
            "shared": Size(usage.referenced - usage.exclusive),
            "exclusive": Size(usage.exclusive),
        }
        return self.fields({**known, **details(fisk), **taken, "served_at": Words(uris)})
