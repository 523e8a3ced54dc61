# SPDX-License-Identifier: Apache-2.0
"""Makes Nova's libvirt driver know ``fisk``.  To be done before that driver is imported.

Its module reads ``[libvirt] images_type`` while it is imported (a default argument), so the value must be
allowed and set by then.
"""

import nova.conf
from oslo_config import cfg

from fisk_openstack import connection

CONF = nova.conf.CONF
IMAGES_TYPE = "fisk"
GROUP = "fisk"
OPTIONS = [
    cfg.StrOpt(
        "fisk_guest_access",
        default="auto",
        choices=[
            ("auto", "block for volumes; for disks nbd if libvirt makes guests reconnect (9.2), else block"),
            ("nbd", "QEMU connects to the daemon's address for NBD over TCP"),
            ("block", "a block device of the host, which waits when a worker is restarted"),
        ],
        help="How guests reach their disks and volumes.",
    ),
    cfg.FloatOpt(
        "fisk_capacity_share",
        default=1.0,
        min=0.0,
        max=1.0,
        help="This host's part of the pool's capacity, where several hosts share the pool: with the parts of"
        " all of them adding up to 1, Placement counts it once.",
    ),
]
"""Options of nova-compute, beside those of ``connection``."""


def prepare() -> None:
    """Register our options, allow and choose our type of images."""
    CONF.register_opts([*connection.OPTIONS, *OPTIONS], group=GROUP)
    option = CONF._groups["libvirt"]._opts["images_type"]["opt"]
    choices = option.type.choices
    if IMAGES_TYPE not in choices:
        choices[IMAGES_TYPE] = "Fisks"
    CONF.set_override("images_type", IMAGES_TYPE, group="libvirt")
    # The image of a server is a Fisk, and these have raw content; "fisk" is no format Glance knows.
    CONF.set_override("snapshot_image_format", "raw", group="libvirt")


def register() -> None:
    """Put image backend, volume driver and the reading of disk paths in their places.

    Raises UnknownNova.
    """
    from nova.virt.libvirt import config, driver, imagebackend, migration, utils
    from nova.virt.libvirt.volume import volume

    from fisk_openstack.nova_imagebackend import migrating, paths, signatures
    from fisk_openstack.nova_imagebackend.backend import FiskBackend, FiskImage
    from fisk_openstack.nova_imagebackend.guests import GuestDisk
    from fisk_openstack.nova_imagebackend.volume import LibvirtFiskVolumeDriver

    signatures.check(
        {
            "find_disk": utils.find_disk,
            "get_disk_type_from_path": utils.get_disk_type_from_path,
            "get_updated_guest_xml": migration.get_updated_guest_xml,
        }
        | signatures.of(imagebackend.Image, FiskImage)
        | signatures.of(imagebackend.Backend, FiskBackend)
        | signatures.of(config.LibvirtConfigGuestDisk, GuestDisk)
        | signatures.of(volume.LibvirtBaseVolumeDriver, LibvirtFiskVolumeDriver)
    )
    imagebackend.Backend = FiskBackend
    driver.VOLUME_DRIVERS["fisk"] = "fisk_openstack.nova_imagebackend.volume.LibvirtFiskVolumeDriver"
    migration.get_updated_guest_xml = migrating.updating(migration.get_updated_guest_xml)
    utils.find_disk = paths.finding(utils.find_disk)
    utils.get_disk_type_from_path = paths.typing(utils.get_disk_type_from_path)
