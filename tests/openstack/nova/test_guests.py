# SPDX-License-Identifier: Apache-2.0
"""How guests reach their disks, by the version of libvirt: in a process of its own, for it changes Nova."""

import json
import subprocess
import sys

import pytest

from tests.openstack.cloud import PLACE

_PROGRAM = """
import datetime, json, sys
import nova.conf
nova.conf.CONF(["--config-file", {config!r}], project="nova")
from fisk_openstack.nova_imagebackend import registration
registration.prepare()
from fisk_core.model import Attachment
from fisk_openstack.nova_imagebackend import guests
nova.conf.CONF.set_override("fisk_guest_access", {wanted!r}, group="fisk")
guests.knows({version})
access = guests.access()
uris = ("nbd+unix:///disk?socket=/run/x", "nbd://127.0.0.1:10810/token")
path = "/dev/loop7" if access == "block" else None
when = datetime.datetime.now()
disk = guests.GuestDisk()
disk.target_dev, disk.target_bus = "vda", "virtio"
guests.point(disk, Attachment("1", "2", "host", access, False, 1, when, "server", uris, path), "/link")
again = guests.GuestDisk()
again.parse_str(disk.to_xml())
shown = [each.to_xml(pretty_print=False) for each in (disk, again)]
print(json.dumps([access, guests.access_to_volume(encrypted=False), *shown]))
"""
NBD = '<source protocol="nbd" name="token"><host name="127.0.0.1" port="10810"/>'
RECONNECT = '<reconnect delay="60"/>'


@pytest.mark.parametrize(
    ("version", "wanted", "access", "volumes", "shown", "reconnects"),
    [
        (9_000_000, "auto", "block", "block", '<source dev="/link"/>', False),
        (9_002_000, "auto", "nbd", "block", NBD, True),
        (10_000_000, "block", "block", "block", '<source dev="/link"/>', False),
        (9_000_000, "nbd", "nbd", "nbd", NBD, False),
    ],
)
def test_guests_reconnect_or_have_a_device(
    version: int, wanted: str, access: str, volumes: str, shown: str, reconnects: bool
) -> None:
    config = str(PLACE / "etc" / "nova-compute" / "nova.conf")
    program = _PROGRAM.format(config=config, version=version, wanted=wanted)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    chosen, for_volumes, xml, again = json.loads(done.stdout.splitlines()[-1])
    assert (chosen, for_volumes) == (access, volumes)
    assert shown in xml
    assert (RECONNECT in xml) is reconnects
    assert shown in again  # what Nova reads of libvirt it can write again
