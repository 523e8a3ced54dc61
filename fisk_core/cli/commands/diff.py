# SPDX-License-Identifier: Apache-2.0
"""``fisk diff``."""

import argparse
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fisk_core.cli.base import FiskLister
from fisk_core.cli.columns import Size

if TYPE_CHECKING:
    from fisk_core.model import Extent


class Diff(FiskLister):
    """List the extents of the second Fisk that differ from the first.

    Exact for Fisks of one lineage, where blocks of one owner are the same blocks.  Of unrelated Fisks all
    that either holds is listed.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("old", metavar="OLD", help="Name or id.")
        parser.add_argument("new", metavar="NEW", help="Name or id.")
        parser.add_argument("--summary", action="store_true", help="Only how much it is, by kind of change.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.engine() as engine:
            extents = engine.diff(parsed_args.old, parsed_args.new)
            if parsed_args.summary:
                return ("Change", "Extents", "Length"), _summary(extents)
            rows = [(each.offset, Size(each.length), each.change.value) for each in extents]
        return ("Offset", "Length", "Change"), rows


def _summary(extents: "Iterable[Extent]") -> list[tuple[str, int, Size]]:
    counts: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    for each in extents:
        counts[each.change.value] += 1
        lengths[each.change.value] += each.length
    return [(change, counts[change], Size(lengths[change])) for change in ("data", "zero")]
