# SPDX-License-Identifier: Apache-2.0
"""Where backups are kept: what every kind of place can do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fisk_core.model import Extent, Fisk

Watch = Callable[[], None]
"""Called every now and then during long work; raises when it is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Order:
    """A backup to be made: its ids, labels, and what Cinder wants to know of the volume at a restore."""

    id: str
    volume_id: str
    labels: dict[str, str]
    metadata: str
    parent_id: str | None
    watch: Watch


class Target(ABC):
    """A place for backups.  All raise errors of Fisk, and what ``watch`` raises."""

    @abstractmethod
    def keep(self, order: Order, source: Fisk | Any) -> int:
        """Make a backup of a Fisk, or of a file object; gives how many bytes were copied.

        With ``parent_id``, and where the place has that backup, only what differs from it is copied and takes
        space.  Nothing is left of a backup that fails, or what is left goes with ``delete``.
        """

    @abstractmethod
    def restore(self, backup_id: str, volume: Fisk | None, file: Any, *, clean: bool, watch: Watch) -> str:
        """Give a volume what a backup holds, zeros behind its end; gives the metadata kept with it.

        ``volume`` is its Fisk, if it is one; ``file`` its file object; ``clean`` says that it reads as zeros.
        Raises NotFound.
        """

    @abstractmethod
    def delete(self, backup_id: str) -> None:
        """Delete a backup; one that is not there is deleted already."""

    @abstractmethod
    def require(self, backup_id: str) -> None:
        """Raise NotFound unless the backup is there."""


Extents = Iterator[Extent]
