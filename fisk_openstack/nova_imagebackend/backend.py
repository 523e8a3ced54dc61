# SPDX-License-Identifier: Apache-2.0
"""The image backend: a disk of a server is a clone of its image, whatever format that has."""

import contextlib
import os
from typing import Any

import nova.conf
from nova import exception
from nova.image import glance
from nova.virt.image import model as imgmodel
from nova.virt.libvirt import imagebackend

from fisk_core.errors import AlreadyExists, NotFound
from fisk_core.model import Fisk, Role
from fisk_core.services.importer import import_image
from fisk_openstack.glance_store.location import SCHEME, uri_of
from fisk_openstack.labels import NAME, SERVER, Kind, find, fisk_id, fisk_name, labels, search
from fisk_openstack.nova_imagebackend import daemon, filling, guests, quiet
from fisk_openstack.nova_imagebackend.paths import link, own_of, path_of
from fisk_openstack.nova_imagebackend.registration import GROUP, IMAGES_TYPE
from fisk_openstack.nova_imagebackend.volume import comes_over

CONF = nova.conf.CONF
CONFIG_DRIVES = ("disk.config", "disk.config.rescue")


class FiskImage(imagebackend.Image):  # type: ignore[misc]  # Nova carries no types
    """One disk of one server."""

    SUPPORTS_CLONE = True

    def __init__(
        self, instance: Any = None, disk_name: str = "", path: str = "", disk_info_mapping: Any = None
    ) -> None:
        self.own = own_of(path) if path else f"{instance.uuid}/{disk_name}"
        self.server, _, self.name = self.own.partition("/")
        self.instance = instance
        self.engine = daemon.engine()
        super().__init__(path_of(self.own), "block", "raw", False, disk_info_mapping=disk_info_mapping)

    # What it is

    def fisk(self) -> Fisk:
        """Give its Fisk; raises DiskNotFound."""
        try:
            return find(self.engine, Kind.DISK, self.own)
        except NotFound:
            raise exception.DiskNotFound(location=self.path) from None

    def exists(self) -> bool:
        """Whether it was made."""
        found = search(self.engine, Kind.DISK, self.own)
        return found is not None and not filling.is_empty(found)

    def get_disk_size(self, name: str) -> int:
        """Give its bytes."""
        return self.fisk().size

    @staticmethod
    def is_shared_block_storage() -> bool:
        """Another host that shares the catalog has the very same disks."""
        return True

    def get_model(self, connection: Any) -> Any:
        """Files cannot be put into it from outside."""
        return imgmodel.LocalBlockImage(self.path)

    def _labels(self, own: str = "") -> dict[str, str]:
        found = labels(Kind.DISK, own or self.own, project=getattr(self.instance, "project_id", None))
        name = getattr(self.instance, "display_name", None)
        return found | {SERVER: self.server} | ({NAME: name} if name else {})

    # Made

    def cache(
        self,
        fetch_func: Any,
        filename: str,
        size: int | None = None,
        safe: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Make the disk if it is not there, large enough; nothing is kept on this host for the next one."""
        # In the server's own directory: it goes with the server, whatever becomes of us meanwhile.
        base = os.path.join(CONF.instances_path, self.server, f"{self.name}.base")
        try:
            self.create_image(fetch_func, base, size, safe, *args, **kwargs)
        finally:
            _remove(base)

    def create_image(
        self,
        prepare_template: Any,
        base: str,
        size: int | None,
        safe: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Make the disk: from its image by a clone, or from what ``prepare_template`` writes into a file."""
        if not self.exists():
            prepare_template(*args, target=base, **kwargs)
        if not self.exists():
            filling.make(self.engine, base, self.own, self._labels(), CONF[GROUP].fisk_pool)
        self.verify_base_size(base, size)
        if size and size > self.get_disk_size(base):
            self.resize_image(size)

    def clone(self, context: Any, image_id_or_uri: str) -> None:
        """Make the disk from an image; one that Fisk has not yet is fetched, once for all servers."""
        image = search(self.engine, Kind.IMAGE, image_id_or_uri) or self._fetch(context, image_id_or_uri)
        self.engine.clone(
            image.id,
            fisk_name(Kind.DISK, self.own),
            role=Role.DISK,
            attributes=self._labels(),
            id=fisk_id(Kind.DISK, self.own),
        )

    def _fetch(self, context: Any, image_id: str) -> Fisk:
        """Import an image another store of Glance has."""
        path = os.path.join(CONF.instances_path, self.server, f"{image_id}.image")
        try:
            glance.API().download(context, image_id, dest_path=path)
            return import_image(
                self.engine,
                path,
                fisk_name(Kind.IMAGE, image_id),
                pool=CONF[GROUP].fisk_pool,
                attributes=labels(Kind.IMAGE, image_id, project=getattr(self.instance, "project_id", None)),
                id=fisk_id(Kind.IMAGE, image_id),
            )
        except AlreadyExists:  # another server needed it at the same time
            return find(self.engine, Kind.IMAGE, image_id)
        finally:
            _remove(path)

    def resize_image(self, size: int) -> None:
        """Make it ``size`` bytes large."""
        self.engine.resize(self.fisk().id, size)

    def flatten(self) -> None:
        """There is nothing to do: it depends on no other disk."""

    def import_file(self, instance: Any, local_file: str, remote_name: str) -> None:
        """Make a disk of the content of a file: the config drive, whose guest is defined by then."""
        filling.fill(
            self.engine, local_file, f"{instance.uuid}/{remote_name}", self._labels(), CONF[GROUP].fisk_pool
        )

    # Used

    def libvirt_info(
        self, cache_mode: str, extra_specs: Any, boot_order: Any = None, disk_unit: Any = None
    ) -> Any:
        """Attach it here, and give the guest's configuration of it."""
        # A config drive is written when the guest that has it is defined.
        if self.name in CONFIG_DRIVES:
            filling.ensure(self.engine, self.own, self._labels(), CONF[GROUP].fisk_pool)
        disk = guests.GuestDisk(super().libvirt_info(cache_mode, extra_specs, boot_order, disk_unit))
        fisk = self.fisk()
        steal = comes_over(self.instance) and daemon.elsewhere(fisk.id)
        found = daemon.attach(fisk.id, self.server, guests.access(), steal=steal)
        if found.path:
            link(self.path, found.path)
        guests.point(disk, found, self.path)
        disk.driver_discard = self.discard_mode or "unmap"
        return disk

    # Kept

    def direct_snapshot(
        self, context: Any, snapshot_name: str, image_format: str, image_id: str, base_image_id: str
    ) -> str:
        """Make an image of what it holds now; gives its location."""
        project = getattr(self.instance, "project_id", None)
        with quiet.guest():
            made = self.engine.snapshot(
                self.fisk().id,
                fisk_name(Kind.IMAGE, image_id),
                role=Role.IMAGE,
                attributes=labels(Kind.IMAGE, image_id, project=project),
                id=fisk_id(Kind.IMAGE, image_id),
            )
        return uri_of(made.pool, made.id)

    def cleanup_direct_snapshot(
        self, location: Any, also_destroy_volume: bool = False, ignore_errors: bool = False
    ) -> None:
        """Remove such an image again, when Glance could not be told of it."""
        url = (location or {}).get("url", "")
        if also_destroy_volume and url.startswith(f"{SCHEME}://"):
            with contextlib.suppress(NotFound):
                self.engine.delete(url.rpartition("/")[2])

    def snapshot_extract(self, target: str, out_format: str) -> None:
        """Write what it holds at this moment into a file."""
        own = f"{self.own}@{os.path.basename(target)}"
        with quiet.guest():
            kept = self._keep(own)
        try:
            self.engine.download(kept.id, target, format=out_format)
        finally:
            daemon.delete(kept.id)

    def _keep(self, own: str) -> Fisk:
        """Freeze what it holds now, once, as the disk ``own`` of the same server."""
        return search(self.engine, Kind.DISK, own) or self.engine.snapshot(
            self.fisk().id,
            fisk_name(Kind.DISK, own),
            attributes=self._labels(own),
            id=fisk_id(Kind.DISK, own),
        )

    def create_snap(self, name: str) -> None:
        """Keep what it holds under a name of its own, unless that was done."""
        self._keep(f"{self.own}@{name}")

    def remove_snap(self, name: str, ignore_errors: bool = False) -> None:
        """Forget what was kept; harmless when nothing was."""
        kept = search(self.engine, Kind.DISK, f"{self.own}@{name}")
        if kept is not None:
            daemon.delete(kept.id)

    def rollback_to_snap(self, name: str) -> None:
        """Give back what was kept; raises SnapshotNotFound."""
        kept = search(self.engine, Kind.DISK, f"{self.own}@{name}")
        if kept is None:
            raise exception.SnapshotNotFound(snapshot_id=name)
        self.engine.revert(self.fisk().id, kept.id)


class FiskBackend(imagebackend.Backend):  # type: ignore[misc]
    """The back ends there are, and ours."""

    def __init__(self, use_cow: bool) -> None:
        super().__init__(use_cow)
        self.BACKEND[IMAGES_TYPE] = FiskImage


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
