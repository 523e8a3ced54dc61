# SPDX-License-Identifier: Apache-2.0
"""The connector: a volume as a file object over NBD, or as a block device where somebody needs one.

A block device is asked for with ``do_local_attach``, or by a volume that is encrypted: what is put on top of
it then works on devices only.  Who backs up an encrypted volume wants its bytes as they are, says
``expect_raw_disk``, and gets the file object.
"""

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from os_brick import exception, utils
from os_brick.initiator.connectors.base import BaseLinuxConnector
from oslo_log import log

from fisk_core.client import RemoteEngine
from fisk_core.errors import FiskError
from fisk_core.model import Access, Attachment
from fisk_openstack.brick import registration
from fisk_openstack.brick.handle import FiskHandle

LOG = log.getLogger(__name__)
_NAMESPACE = uuid.UUID("5f15c0de-0000-4000-8000-0f15c0000003")

Properties = dict[str, Any]


class FiskConnector(BaseLinuxConnector):  # type: ignore[misc]  # os-brick carries no types
    """Connects volumes through the daemon of this host."""

    def __init__(self, root_helper: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(root_helper, *args, **kwargs)
        self._raw = bool(kwargs.get("expect_raw_disk"))
        self._device = bool(kwargs.get("do_local_attach"))

    @staticmethod
    def get_connector_properties(root_helper: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """There is nothing about this host that the volume service must know."""
        return {}

    @property
    def engine(self) -> RemoteEngine:
        """The daemon of this host."""
        return registration.engine()

    @utils.trace  # type: ignore[untyped-decorator]
    @utils.connect_volume_prepare_result  # type: ignore[untyped-decorator]
    def connect_volume(self, connection_properties: Properties) -> dict[str, Any]:
        """Give ``path``, a file object or the path of a block device, and ``type``.

        Connecting a device again gives the one there is.  Raises BrickException.
        """
        with _errors():
            fisk = self.engine.get(connection_properties["fisk_id"])
            if self._wants_device(connection_properties):
                return {"path": self._attach(connection_properties).path, "type": "block"}
            writable = not (_read_only(connection_properties) or fisk.frozen)
            return {"path": FiskHandle(self.engine, fisk.id, writable=writable), "type": "block"}

    def _wants_device(self, properties: Properties) -> bool:
        if properties.get("do_local_attach", self._device):
            return True
        return bool(properties.get("encrypted")) and not self._raw

    def _attach(self, properties: Properties) -> Attachment:
        return self.engine.attach(
            properties["fisk_id"],
            read_only=_read_only(properties),
            access=Access.BLOCK,
            consumer="os-brick",
            id=attachment_id(properties["fisk_id"]),
        )

    @utils.trace  # type: ignore[untyped-decorator]
    @utils.connect_volume_undo_prepare_result(unlink_after=True)  # type: ignore[untyped-decorator]
    def disconnect_volume(
        self,
        connection_properties: Properties,
        device_info: dict[str, Any] | None,
        force: bool = False,
        ignore_errors: bool = False,
    ) -> None:
        """Make durable what was written, and detach; a volume that is not connected is fine.

        ``force`` takes a device from who has it open.  Raises BrickException, unless ``ignore_errors`` with
        ``force``.
        """
        path = (device_info or {}).get("path")
        try:
            with _errors():
                if isinstance(path, FiskHandle):
                    path.close()
                else:
                    self.engine.detach(attachment_id(connection_properties["fisk_id"]), force=force)
        except exception.BrickException:
            if not (force and ignore_errors):
                raise
            LOG.exception("Fisk %s could not be disconnected", connection_properties["fisk_id"])

    @utils.trace  # type: ignore[untyped-decorator]
    @utils.connect_volume_undo_prepare_result  # type: ignore[untyped-decorator]
    def extend_volume(self, connection_properties: Properties) -> int:
        """Give the size in bytes; a device that is connected has it too."""
        with _errors():
            self._attachment(connection_properties)
            return self.engine.get(connection_properties["fisk_id"]).size

    def _attachment(self, properties: Properties) -> Attachment | None:
        """Give this host's block device of a volume, as the daemon has it now."""
        wanted = attachment_id(properties["fisk_id"])
        every = self.engine.attachments(fisk=properties["fisk_id"])
        return next((each for each in every if each.id == wanted), None)

    def get_volume_paths(self, connection_properties: Properties) -> list[str]:
        """Give the paths of the block devices a volume has on this host."""
        with _errors():
            found = self._attachment(connection_properties)
        return [found.path] if found is not None and found.path else []

    def get_search_path(self) -> None:
        """There is no directory with all volumes."""

    def get_all_available_volumes(self, connection_properties: Properties | None = None) -> list[str]:
        """Give the paths of all block devices this connector has made on this host."""
        with _errors():
            every = self.engine.attachments(host=self.engine.about()["host"])
        return [each.path for each in every if each.id == attachment_id(each.fisk_id) and each.path]

    def check_valid_device(self, path: Any, run_as_root: bool = True) -> bool:
        """Say whether something can be read there."""
        if isinstance(path, FiskHandle):
            return _readable(path)
        try:
            return stat.S_ISBLK(os.stat(path).st_mode)
        except (OSError, TypeError):  # nothing there, or no path at all
            return False


def attachment_id(fisk_id: str) -> str:
    """Give the id of a host's block device of a Fisk; its daemon serves that host only."""
    return str(uuid.uuid5(_NAMESPACE, f"{registration.engine().about()['host']}:{fisk_id}"))


def _read_only(properties: Properties) -> bool:
    return properties.get("access_mode") == "ro"


def _readable(handle: FiskHandle) -> bool:
    before = handle.tell()
    try:
        return len(handle.read(4096) or b"") > 0
    except OSError as problem:
        LOG.error("Fisk %s cannot be read: %s", handle.fisk_id, problem)
        return False
    finally:
        handle.seek(before)


@contextmanager
def _errors() -> Iterator[None]:
    """Raise BrickException for our errors."""
    try:
        yield
    except (FiskError, OSError) as problem:
        raise exception.BrickException(message=str(problem)) from problem
