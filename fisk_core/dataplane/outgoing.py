# SPDX-License-Identifier: Apache-2.0
"""What a writer does for another host that waits for its turn: it says where everything durable is found.

The file ``<id>.incoming`` has a token of whoever waits; the writer answers with ``<id>.outgoing``, the
description of its disk, once all it has is durable.  From then on

- a flush is one, also where the Fisk's data is volatile: the guest's last flush before it moves is what the
  other host reads by;
- a map is written down there before the writer goes on in it, so whoever reads follows snapshots, too;
- the fence is looked at often, for a guest waits while it is not.

A crash leaves a description of an earlier map.  So whoever writes next publishes its own before it serves
anybody; where that fails, the file is removed: who waits gets errors then, and never what is out of date.
"""

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisk_core import errors, files
from fisk_core.dataplane.spec import DiskSpec

if TYPE_CHECKING:
    from fisk_core.dataplane.disk import NextPeriod, Period
    from fisk_core.dataplane.server import Server

LOG = logging.getLogger(__name__)
_MAX_FILE = 64 << 10


def read(path: Path) -> dict[str, Any] | None:
    """Give what such a file says, None where there is none; raises PoolError, Corrupt."""
    with files.named("read", path):
        try:
            text = path.read_bytes()[:_MAX_FILE]
        except FileNotFoundError:
            return None
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise errors.Corrupt(f"{path} is damaged: {exc}") from exc
    if not isinstance(found, dict):
        raise errors.Corrupt(f"{path} is damaged")
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace the file as a whole; raises PoolError, NoSpace.

    It need not survive the host: then there is no writer and nobody that waits for it.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with files.named("write", path):
        try:
            new.write_text(json.dumps(content))
            os.replace(new, path)
        except OSError:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise


class Outgoing:
    """The answer of one server to whoever waits.

    What is to be published is decided on the loop, and written by one thread in that order.
    """

    def __init__(self, server: "Server", incoming: Path, outgoing: Path) -> None:
        """Answer at once where somebody waits; raises PoolError when what was said cannot be unsaid."""
        self._server, self._incoming, self._path = server, incoming, outgoing
        self.waiting: str | None = None
        """the token of whoever waits"""
        self._seen: str | None = None
        self._complained = False
        self._latest = server.disk.spec
        if self.look():
            self.waiting = self._seen
            with suppress(errors.FiskError):  # then it is not there any more, or the next line raises
                self._publish(self._seen, self._latest)
                return
        files.remove(self._path)  # also where it is not known whether somebody waits

    def look(self) -> bool:
        """Look whether somebody waits; on any one thread.  What cannot be read is as it was."""
        try:
            found = read(self._incoming)
        except errors.FiskError as exc:
            if not self._complained:
                LOG.warning("it is not known whether another host waits: %s", exc)
            self._complained = True
            return self._seen is not None
        self._complained = False
        seen = None if found is None else str(found.get("id"))
        if seen != self._seen:
            self._seen = seen
            self._server.loop.from_thread(partial(self._heard, seen))
        return seen is not None

    def _heard(self, waiting: str | None) -> None:
        if waiting == self.waiting:
            return
        self.waiting = waiting
        if waiting is not None:
            LOG.info("Fisk %s: another host waits for its turn", self._server.disk.spec.name)
            self._server.flusher.flush(self._durable)

    def _durable(self, error: Exception | None) -> None:
        if error is None:
            self._submit(_told)

    def _submit(self, done: Callable[[None, Exception | None], None]) -> None:
        # The thread that opens periods: one after the other, the last one decided is the last one written.
        self._server.loop.submit("switch", 1, partial(self._publish, self.waiting, self._latest), done)

    def _publish(self, waiting: str | None, spec: DiskSpec) -> None:
        """Say where everything is; leaves nothing there on failure.  Raises PoolError, NoSpace."""
        if waiting is None:
            return
        seen = replace(spec, read_only=True, opened=True, journal=None)
        try:
            write(self._path, {"id": waiting, "spec": asdict(seen)})
        except errors.FiskError as exc:
            LOG.warning("whoever waits for Fisk %s cannot be answered: %s", spec.name, exc)
            files.remove(self._path)
            raise

    # Changes of what is served

    def opener(self, following: "NextPeriod") -> "Callable[[], Period]":
        """Give what opens the next period, and says so before it is entered.

        What it is based on is all there is until then, so who reads it already sees the same.
        """
        self._latest = following.spec
        waiting = self.waiting

        def opened() -> "Period":
            period = following.open()
            try:
                self._publish(waiting, following.spec)
            except BaseException:
                period.give_up()
                raise
            return period

        return opened

    def replaced(self, done: Callable[[], None]) -> None:
        """Publish what is served now, and call ``done``."""
        self._latest = self._server.disk.spec
        if self.waiting is None:
            done()
            return

        def told(result: None, error: Exception | None) -> None:
            _told(result, error)
            done()

        self._submit(told)


def _told(_: None, error: Exception | None) -> None:
    if error is not None:
        LOG.warning("nothing is published for now: %s", error)
