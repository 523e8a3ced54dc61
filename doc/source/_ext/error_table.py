# SPDX-License-Identifier: Apache-2.0
"""The directive ``error-table``: every class of ``fisk_core.errors`` with all its faces, from the code."""

import errno
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from fisk_core import errors

_HEADINGS = ("Exit status", "Error", "Meaning", "errno", "HTTP")
_WIDTHS = (10, 16, 54, 14, 6)


def error_classes() -> list[type[errors.FiskError]]:
    """Give the classes by exit status, the root first."""
    found = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.FiskError)
    ]
    return sorted(found, key=lambda kind: kind.exit_status)


def rows() -> list[tuple[str, ...]]:
    return [
        (
            str(kind.exit_status),
            kind.__name__,
            " ".join((kind.__doc__ or "").split()),
            errno.errorcode[kind.errno],
            str(kind.http_status),
        )
        for kind in error_classes()
    ]


class ErrorTable(SphinxDirective):
    """Puts the table where it stands."""

    def run(self) -> list[nodes.Node]:
        table = nodes.table()
        group = nodes.tgroup(cols=len(_HEADINGS))
        group += [nodes.colspec(colwidth=width) for width in _WIDTHS]
        group += nodes.thead("", _row(_HEADINGS))
        group += nodes.tbody("", *(_row(row) for row in rows()))
        table += group
        return [table]


def _row(texts: tuple[str, ...]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph(text=text)) for text in texts))


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("error-table", ErrorTable)
    return {"version": "1", "parallel_read_safe": True}
