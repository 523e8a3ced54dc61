# SPDX-License-Identifier: Apache-2.0
"""The rows of the table, by name.

A row is a function that measures and yields figures; ``@row`` files it under its name, in the order of
the table.
"""

from collections.abc import Callable, Iterator

from bench.context import Bench
from bench.figures import Figure

Row = Callable[[Bench], Iterator[Figure]]

ROWS: dict[str, Row] = {}


def row(name: str) -> Callable[[Row], Row]:
    """File the function under ``name``."""

    def file(function: Row) -> Row:
        ROWS[name] = function
        return function

    return file
