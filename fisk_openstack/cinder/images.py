# SPDX-License-Identifier: Apache-2.0
"""Between images and volumes: both are Fisks, so either becomes the other by a clone.

Which Fisk an image is, is known by its id alone: nothing depends on Glance showing where images are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cinder import exception
from cinder.image import image_utils
from cinder.volume import configuration, volume_utils

from fisk_core.model import Fisk, Role
from fisk_openstack.cinder import hashing
from fisk_openstack.cinder.base import GIB
from fisk_openstack.cinder.errors import cinder_errors
from fisk_openstack.cinder.hashing import hash_of
from fisk_openstack.cinder.volumes import Volumes
from fisk_openstack.glance_store.location import uri_of
from fisk_openstack.labels import Kind, fisk_id, fisk_name, labels, search


class Images(Volumes):
    """Volumes from images and images from volumes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(hashing.OPTIONS)

    @staticmethod
    def get_driver_options() -> list[Any]:
        """Give the options for configuration references."""
        return [*Volumes.get_driver_options(), *hashing.OPTIONS]

    def clone_image(
        self, context: Any, volume: Any, image_location: Any, image_meta: dict[str, Any], image_service: Any
    ) -> tuple[dict[str, Any], bool]:
        """Make a volume from an image of any format that Fisk has; gives (update, whether that was so).

        A volume that is to be encrypted is none: its blocks are others than the image's.
        """
        if volume.encryption_key_id or not _is_blocks(image_meta):
            return {}, False
        with cinder_errors(volume.id):
            image = search(self.engine, Kind.IMAGE, image_meta["id"], pool=self.pool)
            if image is None:
                return {}, False
            _require_room(image, volume)
            self._clone(image.id, volume)
        return {}, True

    def copy_image_to_volume(
        self, context: Any, volume: Any, image_service: Any, image_id: str, disable_sparse: bool = False
    ) -> None:
        """Give a volume the content of an image; nothing is copied if it is one of our pool."""
        with cinder_errors(volume.id):
            image = search(self.engine, Kind.IMAGE, image_id, pool=self.pool)
            fisk = self._volume(volume)
            is_ours = image is not None and image.pool == fisk.pool
            if image is not None and is_ours and _is_blocks(image_service.show(context, image_id)):
                _require_room(image, volume)
                self.engine.revert(fisk.id, image.id)
                self.engine.resize(fisk.id, volume.size * GIB)
                return
        super().copy_image_to_volume(context, volume, image_service, image_id, disable_sparse)

    def copy_volume_to_image(
        self, context: Any, volume: Any, image_service: Any, image_meta: dict[str, Any]
    ) -> None:
        """Make an image of what a volume holds now: a clone, told to Glance as the image's location.

        Other formats than raw are converted and uploaded.
        """
        if image_meta["disk_format"] != "raw" or image_meta.get("container_format") == "compressed":
            self._upload(context, volume, image_service, image_meta)
            return
        with cinder_errors(volume.id):
            made = self._image_of(volume, image_meta)
        try:
            image_service.add_location(
                context, image_meta["id"], uri_of(made.pool, made.id), self._hashes(volume, made)
            )
        except Exception:  # whatever Glance refuses it with, nobody knows of the Fisk then
            with cinder_errors(volume.id):
                self.engine.delete(made.id)
            raise

    def _hashes(self, volume: Any, made: Fisk) -> dict[str, str]:
        """Give what we tell Glance of the content of an image."""
        algorithm = self.configuration.fisk_image_hash
        if not algorithm:
            return {}
        with cinder_errors(volume.id):
            return {"os_hash_algo": algorithm, "os_hash_value": hash_of(self.engine, made, algorithm)}

    def _image_of(self, volume: Any, image_meta: dict[str, Any]) -> Fisk:
        own = image_meta["id"]
        return self.engine.snapshot(
            self._volume(volume).id,
            fisk_name(Kind.IMAGE, own),
            role=Role.IMAGE,
            attributes=labels(Kind.IMAGE, own, name=image_meta.get("name"), project=volume.project_id),
            id=fisk_id(Kind.IMAGE, own),
        )

    def _upload(self, context: Any, volume: Any, image_service: Any, image_meta: dict[str, Any]) -> None:
        """Convert what a volume holds now, whoever writes to it, and upload the file."""
        wanted = image_meta["disk_format"]
        image_utils.check_image_conversion_disable(wanted, "raw", image_meta["id"], upload=True)
        with image_utils.temporary_file(prefix="vol_upload_") as path:
            with cinder_errors(volume.id), self._shown(volume, image_meta["id"]) as shown:
                self.engine.download(shown.id, path, format=wanted, overwrite=True)
            volume_utils.upload_volume(context, image_service, image_meta, path, volume, volume_format=wanted)

    @contextmanager
    def _shown(self, volume: Any, image_id: str) -> Iterator[Fisk]:
        """Give a snapshot of a volume that lasts as long as the block: what the image is going to hold."""
        shown = self.engine.snapshot(
            self._volume(volume).id,
            f"upload-{image_id}",
            attributes=labels(Kind.IMAGE, image_id, project=volume.project_id),
        )
        try:
            yield shown
        finally:
            self.engine.delete(shown.id)


def _is_blocks(image_meta: dict[str, Any]) -> bool:
    """Whether the Fisk of an image holds its blocks: what nobody can look into is kept as it was sent."""
    return image_meta.get("container_format") != "compressed" and image_meta.get("disk_format") != "ploop"


def _require_room(image: Fisk, volume: Any) -> None:
    if image.size > volume.size * GIB:
        reason = f"its {image.size} bytes do not fit into {volume.size} GiB"
        raise exception.ImageUnacceptable(image_id=image.id, reason=reason)


configuration.CONF.register_opts(hashing.OPTIONS, group=configuration.SHARED_CONF_GROUP)
