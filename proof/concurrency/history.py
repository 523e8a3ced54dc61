# SPDX-License-Identifier: Apache-2.0
"""What happened to the cells of one disk, as columns: one row for each cell that a request touched.

Times are nanoseconds of the host's monotonic clock, the same for all processes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

READ, WRITE, MAYBE = 0, 1, 2
"""MAYBE: a change whose reply never came; it happened before ``returned`` or never"""
COLUMNS = ("cell", "value", "invoked", "returned", "kind", "durable")
_TIMES = ("invoked", "returned")
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class History:
    """Equally long columns; ``durable`` is 1 for a change made with FUA.

    ``flushes`` holds (invoked, returned) of the flushes that were acknowledged.
    """

    cell: Ints
    value: Ints
    invoked: Ints
    returned: Ints
    kind: Ints
    durable: Ints
    flushes: Ints

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]], flushes: Iterable[Sequence[int]] = ()) -> "History":
        """Make one of rows as COLUMNS says."""
        table = np.array([*rows], np.int64).reshape(-1, len(COLUMNS))
        columns = {name: np.ascontiguousarray(each) for name, each in zip(COLUMNS, table.T, strict=True)}
        return cls(**columns, flushes=_pairs(flushes))

    @classmethod
    def joined(cls, parts: "Sequence[History]") -> "History":
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
        return cls(**columns, flushes=np.concatenate([part.flushes for part in parts]))

    def where(self, chosen: NDArray[Any]) -> "History":
        """Give the rows that were chosen."""
        return History(**{name: getattr(self, name)[chosen] for name in COLUMNS}, flushes=self.flushes)

    def since(self, began: int) -> "History":
        """Give the same with times that count from a moment."""
        columns = {name: getattr(self, name) - (began if name in _TIMES else 0) for name in COLUMNS}
        return History(**columns, flushes=self.flushes - began)

    def save(self, path: Path) -> None:
        np.savez(path, flushes=self.flushes, **{name: getattr(self, name) for name in COLUMNS})

    @classmethod
    def load(cls, path: Path) -> "History":
        with np.load(path) as found:
            return cls(**{name: found[name] for name in (*COLUMNS, "flushes")})

    def __len__(self) -> int:
        return len(self.cell)


def _pairs(flushes: Iterable[Sequence[int]]) -> Ints:
    return np.array([*flushes], np.int64).reshape(-1, 2)
