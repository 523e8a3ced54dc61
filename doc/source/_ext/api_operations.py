# SPDX-License-Identifier: Apache-2.0
"""The directive ``api-operations``: every operation of the API, from the committed OpenAPI document."""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

_HEADINGS = ("Operation", "Role", "What it does")
_WIDTHS = (40, 10, 50)


def rows(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Give (method and path, role, summary) in the order of paths."""
    found = []
    for path, methods in sorted(document["paths"].items()):
        for method, operation in methods.items():
            role = operation["x-fisk-role"] or "anybody"
            found.append((f"{method.upper()} {path}", role, operation["summary"]))
    return found


class ApiOperations(SphinxDirective):
    """Puts the table where it stands."""

    def run(self) -> list[nodes.Node]:
        source = Path(self.env.srcdir) / "openapi.json"
        self.env.note_dependency(str(source))
        table = nodes.table()
        group = nodes.tgroup(cols=len(_HEADINGS))
        group += [nodes.colspec(colwidth=width) for width in _WIDTHS]
        group += nodes.thead("", _row([nodes.paragraph(text=each) for each in _HEADINGS]))
        body = nodes.tbody("")
        for where, role, what in rows(json.loads(source.read_text())):
            body += _row([nodes.literal(text=where), nodes.paragraph(text=role), nodes.paragraph(text=what)])
        group += body
        table += group
        return [table]


def _row(cells: list[Any]) -> nodes.row:
    wrapped = [each if isinstance(each, nodes.paragraph) else nodes.paragraph("", "", each) for each in cells]
    return nodes.row("", *(nodes.entry("", each) for each in wrapped))


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("api-operations", ApiOperations)
    return {"version": "1", "parallel_read_safe": True}
