# SPDX-License-Identifier: Apache-2.0
"""Where backups are kept: what every kind of place can do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from oslo_utils.uuidutils import is_uuid_like

from fisk_core.errors import InvalidValue
from fisk_core.model import Extent, Fisk

Watch = Callable[[], None]
"""Called every now and then during long work; raises when it is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Own:
    """The ids of a backup and of the volume it was made of."""

    backup: str
    volume: str

    def __post_init__(self) -> None:
        for each in (self.backup, self.volume):
            if not is_uuid_like(each):  # they become names of files
                raise InvalidValue(f"{each!r} is not an id")


@dataclass(frozen=True, slots=True)
class Order:
    """A backup to be made: its ids, labels, and what Cinder wants to know of the volume at a restore."""

    own: Own
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
    def restore(self, own: Own, volume: Fisk | None, file: Any, *, clean: bool, watch: Watch) -> str:
        """Give a volume what a backup holds, zeros behind its end; gives the metadata kept with it.

        ``volume`` is its Fisk, if it is one; ``file`` its file object; ``clean`` says that it reads as zeros.
        Raises NotFound.
        """

    @abstractmethod
    def delete(self, own: Own) -> None:
        """Delete a backup; one that is not there is deleted already."""

    @abstractmethod
    def require(self, own: Own) -> None:
        """Raise NotFound unless the backup is there."""


Extents = Iterator[Extent]
