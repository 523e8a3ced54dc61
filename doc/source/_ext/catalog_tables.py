# SPDX-License-Identifier: Apache-2.0
"""The directive ``catalog-tables``: all tables of the catalog, their meaning and columns, from the code."""

import textwrap
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sqlalchemy import Table

from fisk_core.catalog.schema import metadata


class CatalogTables(SphinxDirective):
    """Puts a definition list where it stands."""

    def run(self) -> list[nodes.Node]:
        found = nodes.definition_list()
        for table in metadata.tables.values():
            found += self._item(table)
        return [found]

    def _item(self, table: Table) -> nodes.definition_list_item:
        meaning = nodes.definition()
        columns = ", ".join(f"``{column.name}``" for column in table.columns)
        text = [f"Columns: {columns}.", "", *textwrap.dedent(_unindented(table.comment or "")).splitlines()]
        self.state.nested_parse(StringList(text, "fisk_core/catalog/schema.py"), 0, meaning)
        return nodes.definition_list_item("", nodes.term("", "", nodes.literal(text=table.name)), meaning)


def _unindented(comment: str) -> str:
    """Give a comment whose first line is not indented like the others as one that dedents evenly."""
    first, _, rest = comment.partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}"


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("catalog-tables", CatalogTables)
    return {"version": "1", "parallel_read_safe": True}
