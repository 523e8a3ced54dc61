# SPDX-License-Identifier: Apache-2.0
"""What every access path offers: plan, connect, look, disconnect.

The order that survives crashes is the caller's, and simple:

1. ``details = plan(...)`` makes nothing; the details say all that connecting will make.
2. The details are stored, durably.
3. ``connect(details)`` makes it.  Interrupted at any point, or repeated, it can be called again.
4. ``disconnect(details)`` undoes whatever of it there is: all, some, or nothing.
5. The stored details are forgotten.

What must be known of helper processes to undo it is kept in the attachment's own directory, written by the
helper itself before it does anything.  Helpers outlive the process that started them, and are ended by their
id, compared with their start time, while they hold the lock of that directory: never by a name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fisk_core.model import Fisk

if TYPE_CHECKING:
    from fisk_core.engine.context import Context

Details = dict[str, Any]
"""JSON types only."""


class AccessPath(ABC):
    """One way to reach a Fisk.  Stateless: what there is is asked of the host each time.

    May be used by several threads at once, but not for the same attachment.
    """

    name: ClassVar[str]
    """its name among the entry points ``fisk.access``"""

    needs_worker: ClassVar[bool] = True
    """A worker serves the Fisk and ``plan`` gets the NBD URI of its unix socket.  Without it the path takes
    the Fisk's lock (and writer lease) itself, and listens at its control socket."""

    exclusive: ClassVar[bool] = False
    """a writable attachment of this kind is the only one its Fisk has"""

    moves_in_use: ClassVar[bool] = False
    """It may be made while another host writes the Fisk: what is read by direct I/O before the hand-over is
    not kept, and :meth:`took_over` drops the rest."""

    def __init__(self, context: "Context") -> None:
        self.context = context

    def available(self) -> str | None:
        """Give None where this host has all it takes, else one sentence that says what is missing."""
        return None

    @abstractmethod
    def plan(
        self, fisk: Fisk, uri: str | None, directory: Path, *, read_only: bool, options: Mapping[str, Any]
    ) -> Details:
        """Say what connecting will make; makes nothing.

        ``directory`` belongs to this attachment alone; ``connect`` makes it and ``disconnect`` removes it.
        It is on this host, and stays the same as long as the attachment exists.  ``options`` are this access
        path's own.  Raises InvalidValue, Unsupported, and MissingTool where ``available`` says so.
        """

    @abstractmethod
    def connect(self, details: Details) -> str | None:
        """Make it, or what is missing of it, and give the path (file, device, URL) people use; None: the URI.

        Also repairs: after a helper died, or the host was started anew.  The path may be another then.
        Raises InUse, MissingTool, Unsupported, PoolError; what was made then stays for ``disconnect``.
        """

    @abstractmethod
    def disconnect(self, details: Details, *, force: bool = False) -> None:
        """Undo it in reverse order; what is not there is no error.

        Raises InUse, with everything left as it is, while a consumer still uses it, unless forced.  For
        access paths with a worker this comes before the worker ends.
        """

    @abstractmethod
    def alive(self, details: Details) -> bool:
        """Say cheaply whether all that connecting made is still there; if not, ``connect`` repairs it."""

    @abstractmethod
    def resized(self, details: Details, size: int) -> None:
        """Have the path show that the Fisk has ``size`` bytes now; its worker knows it already.

        Repeating is harmless.
        """

    def took_over(self, details: Details) -> None:  # noqa: B027 - most keep nothing
        """Drop what the kernel keeps of the time when another host wrote; repeating is harmless.

        Raises PoolError where it cannot be dropped.
        """

    def require(self) -> None:
        """Raise MissingTool where this host lacks something."""
        from fisk_core.errors import MissingTool

        if lacking := self.available():
            raise MissingTool(f"access path '{self.name}': {lacking}")
