# SPDX-License-Identifier: Apache-2.0
"""The directive ``struct-layout``: offsets and sizes of a structure on the disk, from the code.

Its argument is ``module:NAME`` of a ``struct.Struct``, its content one line for each field, padding left
out.  A page that names more or fewer fields than there are does not build.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from struct import Struct, calcsize
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

_HEADINGS = ("Offset", "Bytes", "Field")
_WIDTHS = (8, 8, 84)


def fields(structure: Struct) -> Iterator[tuple[int, int]]:
    """Give offset and bytes of each field of a structure without alignment."""
    offset = 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", structure.format):
        size = calcsize(f"<{code}")
        if code in "sx":
            size, count = int(count or 1), "1"
        for _ in range(int(count or 1)):
            if code != "x":
                yield offset, size
            offset += size


class StructLayout(SphinxDirective):
    """Puts the table where it stands."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].partition(":")
        found = list(fields(getattr(import_module(module), name)))
        names = [line for line in self.content if line.strip()]
        if len(found) != len(names):
            raise self.error(f"{self.arguments[0]} has {len(found)} fields, {len(names)} are described")
        table = nodes.table()
        group = nodes.tgroup(cols=len(_HEADINGS))
        group += [nodes.colspec(colwidth=width) for width in _WIDTHS]
        group += nodes.thead("", nodes.row("", *(_cell(text) for text in _HEADINGS)))
        body = nodes.tbody()
        for (offset, size), text in zip(found, names, strict=True):
            body += nodes.row("", _cell(str(offset)), _cell(str(size)), self._parsed(text))
        group += body
        table += group
        return [table]

    def _parsed(self, text: str) -> nodes.entry:
        entry = nodes.entry()
        self.state.nested_parse(StringList([text], self.content.source(0)), self.content_offset, entry)
        return entry


def _cell(text: str) -> nodes.entry:
    return nodes.entry("", nodes.paragraph(text=text))


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("struct-layout", StructLayout)
    return {"version": "1", "parallel_read_safe": True}
