# SPDX-License-Identifier: Apache-2.0
"""nova-compute starts with the Nova we know, and with no other."""

import subprocess
import sys

import pytest

from tests.openstack.cloud import PLACE

_START = """
import nova.conf
nova.conf.CONF(["--config-file", {config!r}], project="nova")
from nova.virt.libvirt import driver, imagebackend, utils
from nova.virt.libvirt.volume import volume
{change}
from nova.virt import driver as virt
virt.load_compute_driver(None)
"""
# Nova reads images_type while its driver is imported, so what is changed before needs our type to be allowed.
_FIRST = "from fisk_openstack.nova_imagebackend import registration; registration.prepare()\n"
CHANGES = {
    "LibvirtDriver.cleanup": "driver.LibvirtDriver.cleanup = lambda self, context, instance: None",
    "LibvirtDriver.get_info": "driver.LibvirtDriver.get_info = lambda self, instance, much: None",
    "Image.clone": "imagebackend.Image.clone = lambda self, context, image: None",
    "LibvirtBaseVolumeDriver.extend_volume": (
        "volume.LibvirtBaseVolumeDriver.extend_volume = lambda self, connection_info: None"
    ),
    "find_disk": "utils.find_disk = lambda guest, number=0: None",
}


def started(change: str) -> subprocess.CompletedProcess[str]:
    config = str(PLACE / "etc" / "nova-compute" / "nova.conf")
    program = _START.format(config=config, change=change)
    where = program.index("from nova.virt.libvirt")
    program = program[:where] + _FIRST + program[where:]
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


def test_the_nova_we_know_is_accepted() -> None:
    done = started("")
    assert "UnknownNova" not in done.stderr
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("method", CHANGES)
def test_a_method_with_other_parameters_is_refused_by_name_and_release(method: str) -> None:
    done = started(CHANGES[method])
    assert done.returncode == 1
    assert f"it has {method}(" in done.stderr
    assert "a release Fisk knows (34 (2026.2))" in done.stderr
