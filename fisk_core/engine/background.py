# SPDX-License-Identifier: Apache-2.0
"""The work an engine leaves for later: one thread that settles frozen maps and publishes headers.

The thread starts at the first ``notify`` and waits until things are quiet for a moment, so that it does not
stand in the way of a series of snapshots.  ``close`` returns when everything notified of is done.  Nothing
is lost if the process dies before: the catalog says what is still to be done, and any engine that changes
something later does it.
"""

import logging
import threading
import time
from collections.abc import Callable

from fisk_core.errors import FiskError

LOG = logging.getLogger(__name__)

QUIET_SECONDS = 0.2
"""How long nothing must happen before the work begins."""
PATIENCE_SECONDS = 5.0
"""When it begins in any case."""


class Background:
    """Runs ``work`` after every ``notify``, in a thread of its own, once for many of them."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._asked = 0
        self._done = 0
        self._last = 0.0
        self._closing = False
        self._thread: threading.Thread | None = None

    def notify(self) -> None:
        """There is something to do."""
        with self._changed:
            self._asked += 1
            self._last = time.monotonic()
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="fisk-settle", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when what was notified of until now has been done (or has failed, and was logged)."""
        with self._changed:
            target, self._last = self._asked, 0.0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= target or self._thread is None)

    def close(self) -> None:
        """Do what is left, at once, and end; a second call does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._done or self._closing)
                if self._asked == self._done:
                    return
                self._wait_for_quiet()
                taken = self._asked
            try:
                self._work()
            except FiskError as exc:
                LOG.warning("work left for later failed and will be tried again: %s", exc)
            finally:  # whatever ends this thread, nobody waits for it in vain
                with self._changed:
                    self._done = taken
                    self._changed.notify_all()

    def _wait_for_quiet(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._closing:
            now = time.monotonic()
            left = min(self._last + QUIET_SECONDS, deadline) - now
            if left <= 0:
                return
            self._changed.wait(left)
