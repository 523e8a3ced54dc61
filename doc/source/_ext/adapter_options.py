# SPDX-License-Identifier: Apache-2.0
"""The directive ``adapter-options``: the options of a module that only runs inside a service of OpenStack.

They are taken from the module's text, because importing it would need that service.
"""

import ast
from pathlib import Path
from typing import Any

from docutils import nodes
from oslo_config import cfg
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[3]
NAME = "OPTIONS"
_HEADINGS = ("Option", "Default", "Meaning")
_WIDTHS = (28, 16, 56)


def options(path: Path) -> list[cfg.Opt]:
    """Give the options a module defines itself; raises ValueError when there is no list of them.

    What the list is made of are literals, and names that the module gives to literals.
    """
    known: dict[str, Any] = {"cfg": cfg}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                known[name] = value
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.List() as value) if name == NAME:
                own = ast.List([each for each in value.elts if not isinstance(each, ast.Starred)], ast.Load())
                code = compile(ast.fix_missing_locations(ast.Expression(own)), str(path), "eval")
                return list(eval(code, known))
    raise ValueError(f"{path} has no list {NAME}")


def modules(root: Path = ROOT / "fisk_openstack") -> list[Path]:
    """Give the modules that define options."""
    return sorted(
        path for path in root.rglob("*.py") if f"\n{NAME} = [\n" in path.read_text(encoding="utf-8")
    )


class AdapterOptions(SphinxDirective):
    """Puts a table of them where it stands."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = ROOT / self.arguments[0]
        self.env.note_dependency(str(path))
        table = nodes.table()
        group = nodes.tgroup(cols=len(_HEADINGS))
        group += [nodes.colspec(colwidth=width) for width in _WIDTHS]
        group += nodes.thead("", _row([nodes.paragraph(text=each) for each in _HEADINGS]))
        group += nodes.tbody("", *(self._option(each) for each in options(path)))
        table += group
        return [table]

    def _option(self, option: cfg.Opt) -> nodes.row:
        meaning = [nodes.paragraph(text=option.help or "")]
        choices = getattr(option.type, "choices", None)
        if choices:
            meaning.append(nodes.bullet_list("", *(_choice(*each) for each in choices.items())))
        default = "" if option.default in (None, {}, []) else str(option.default)
        shown = nodes.literal(text=default) if default else nodes.inline(text="—")
        return _row([nodes.literal(text=option.name), shown, meaning])


def _choice(value: str, meaning: str | None) -> nodes.list_item:
    text = f": {meaning}" if meaning else ""
    return nodes.list_item("", nodes.paragraph("", "", nodes.literal(text=value), nodes.Text(text)))


def _row(cells: list[Any]) -> nodes.row:
    made = []
    for cell in cells:
        parts = cell if isinstance(cell, list) else [cell]
        blocks = [
            each if not isinstance(each, nodes.Inline) else nodes.paragraph("", "", each) for each in parts
        ]
        made.append(nodes.entry("", *blocks))
    return nodes.row("", *made)


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("adapter-options", AdapterOptions)
    return {"version": "1", "parallel_read_safe": True}
