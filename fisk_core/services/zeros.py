# SPDX-License-Identifier: Apache-2.0
"""Finding the blocks of a buffer that hold anything but zeros."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_STRIDE = 64  # every 64th word decides for nearly all blocks that are not zero
_WORD = np.dtype(np.uint64)


def data_runs(data: memoryview, block: int) -> Iterator[tuple[int, int]]:
    """Give (offset, length) of the runs of blocks in ``data`` that are not all zeros, ascending.

    ``block`` is a power of two, at least 8.  A short block at the end counts like a whole one.
    """
    whole = len(data) // block * block
    busy = _busy(np.frombuffer(data[:whole], _WORD).reshape(-1, block // _WORD.itemsize))
    tail = data[whole:]
    if tail:
        busy = np.append(busy, any(tail))
    if busy.all():
        yield from [(0, len(data))] if len(data) else []
        return
    # A run begins where busy turns on and ends where it turns off.
    edges = np.flatnonzero(np.diff(busy, prepend=False, append=False)) * block
    for start, end in edges.reshape(-1, 2).tolist():
        yield start, min(end, len(data)) - start


def _busy(blocks: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Say for each row whether it holds anything but zeros."""
    busy: NDArray[np.bool_] = np.any(blocks[:, ::_STRIDE], axis=1)
    quiet = np.flatnonzero(~busy)
    if quiet.size:
        busy[quiet] = np.any(blocks[quiet], axis=1)
    return busy
