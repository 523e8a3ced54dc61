# SPDX-License-Identifier: Apache-2.0
"""The directive ``support-matrix``: what works with a service, from ``admin/support-matrix.toml``.

Every feature has a ``state``; what is supported, fully or within limits, names the ``methods`` that do it
(``PACKAGE:NAME`` below ``fisk_openstack``) and the tests it was ``seen`` in (``PACKAGE:NAME`` below
``tests/openstack``).  A test compares both with the tree.
"""

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

SOURCE = Path(__file__).parents[1] / "admin" / "support-matrix.toml"
STATES = {"yes": "yes", "limited": "with limits", "no": "no"}
_HEADINGS = ("Feature", "Supported", "Notes", "Seen in")
_WIDTHS = (26, 10, 36, 28)


class Feature(NamedTuple):
    """One row."""

    service: str
    name: str
    state: str
    note: str = ""
    methods: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()


def features(source: Path = SOURCE) -> list[Feature]:
    """Give all rows, in their order."""
    found = tomllib.loads(source.read_text(encoding="utf-8"))
    return [
        Feature(
            service,
            each["name"],
            each["state"],
            " ".join(each.get("note", "").split()),
            tuple(each.get("methods", ())),
            tuple(each.get("seen", ())),
        )
        for service, rows in found.items()
        for each in rows
    ]


class SupportMatrix(SphinxDirective):
    """Puts the table of one service where it stands."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(SOURCE))
        table = nodes.table()
        group = nodes.tgroup(cols=len(_HEADINGS))
        group += [nodes.colspec(colwidth=width) for width in _WIDTHS]
        group += nodes.thead("", _row([[nodes.paragraph(text=each)] for each in _HEADINGS]))
        body = nodes.tbody("")
        for each in features():
            if each.service == self.arguments[0]:
                body += self._feature(each)
        group += body
        table += group
        return [table]

    def _feature(self, feature: Feature) -> nodes.row:
        seen = [nodes.paragraph("", "", nodes.literal(text=_short(each))) for each in feature.seen]
        cells = (feature.name, STATES[feature.state], feature.note)
        return _row([*(self._parsed(each) for each in cells), seen])

    def _parsed(self, text: str) -> list[nodes.Node]:
        holder = nodes.container()
        self.state.nested_parse(StringList([text], str(SOURCE)), 0, holder)
        return list(holder.children)


def _short(test: str) -> str:
    return test.partition(":")[2].removeprefix("test_").replace("_", " ")


def _row(cells: list[list[nodes.Node]]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", *each) for each in cells))


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("support-matrix", SupportMatrix)
    return {"version": "1", "parallel_read_safe": True}
