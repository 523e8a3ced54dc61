# SPDX-License-Identifier: Apache-2.0
"""Adds up how far long work is, and tells it to whoever asked, who may end the work by raising."""

from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called with (done, all there is to do or None); raising from it cancels."""


class Meter:
    """One piece of work; ``total`` may be raised on the way, where it turns out that more is to be done.

    To be moved on only where everything done so far may stay and nothing is half-done.
    """

    def __init__(self, progress: Progress | None, total: int = 0) -> None:
        self._progress, self.total, self.done = progress, total, 0

    def advance(self, count: int = 1) -> None:
        self.to(self.done + count)

    def to(self, done: int) -> None:
        self.done = done
        if self._progress is not None:
            self._progress(done, self.total)
