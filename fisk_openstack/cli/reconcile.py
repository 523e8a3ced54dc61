# SPDX-License-Identifier: Apache-2.0
"""``fisk openstack reconcile``."""

import argparse
from datetime import timedelta
from typing import Any

from fisk_core.cli.arguments import duration
from fisk_core.cli.base import FiskLister
from fisk_core.errors import Corrupt
from fisk_openstack.cli.base import CloudCommand
from fisk_openstack.reconcile import compare, repair, survey
from fisk_openstack.reconcile.repair import require_right_cloud

_HEADINGS = ("What", "Kind", "OpenStack ID", "Reason", "Repair", "Repaired", "Target")


class Reconcile(CloudCommand, FiskLister):
    """Compare Fisks with what the services of the cloud know, as an administrator of it.

    Reports Fisks and attachments that nobody knows of, what was never finished, and resources whose Fisk is
    missing.  Exit status 8 when any of that is left.  A crash may be cleaned up after with ``--repair``.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "ids",
            metavar="ID",
            nargs="*",
            help="Only what this image, volume, snapshot, backup or server has to do with; default all.",
        )
        parser.add_argument(
            "--repair",
            action="store_true",
            help="Remove what is an orphan for certain; never what somebody may be working on.",
        )
        parser.add_argument(
            "--grace",
            metavar="TIME",
            default="1h",
            help="Trust that what is younger than this is under way; default 1h.",
        )
        parser.add_argument(
            "--only-region",
            action="store_true",
            help="No other region of the cloud uses these Fisks.",
        )
        parser.add_argument(
            "--any-project",
            action="store_true",
            help="No other cloud uses these Fisks: those of deleted projects are ours, too.",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        grace = timedelta(seconds=duration(parsed_args.grace))
        cloud = self.required_cloud()
        with self.daemon() as engine:
            seen = survey(engine, cloud, grace, any_project=parsed_args.any_project)
            found = compare(seen, cloud, parsed_args.ids)
            if parsed_args.repair and found:
                require_right_cloud(seen, cloud, only_region=parsed_args.only_region)
                found = list(repair(engine, found))
        repaired = sum(each.repaired for each in found)
        self.status = 0 if len(found) == repaired else Corrupt.exit_status
        self.say(
            f"{len(seen.fisks)} Fisks of OpenStack: {len(found)} findings"
            + (f", {repaired} repaired" if repaired else "")
        )
        rows = [
            (each.what, each.kind, each.own, each.reason, each.fix.value, each.repaired, each.target)
            for each in found
        ]
        return _HEADINGS, rows
