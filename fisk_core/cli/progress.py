# SPDX-License-Identifier: Apache-2.0
"""Progress bars: on standard error, and only when a person looks at it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Report = Callable[[int, int | None], None]


@contextmanager
def shown(
    stream: TextIO, title: str, *, quiet: bool = False, counts: bool = False
) -> Iterator[Report | None]:
    """Give what to call with (done, in all or None), or None when nobody would see it.

    It is told bytes, or with ``counts`` a number of things.
    """
    if quiet or not stream.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *((MofNCompleteColumn(),) if counts else (DownloadColumn(binary_units=True), TransferSpeedColumn())),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
