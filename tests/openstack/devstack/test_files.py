# SPDX-License-Identifier: Apache-2.0
"""What the plugin of DevStack writes is read as it is meant, by the services' own code.

Each in a process of its own: their options are global.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devstack.sites import STACK, Site

NOVA = """
from nova import config
from nova.virt import driver
config.parse_args(["nova-compute", "--config-file", FILE])
import nova.conf
from nova.virt.fisk import FiskLibvirtDriver
from fisk_openstack.nova_imagebackend import daemon
print(nova.conf.CONF.compute_driver, nova.conf.CONF.libvirt.images_type, daemon.engine().pool("default").name)
"""
CINDER = """
from cinder import context, objects
objects.register_all()
from cinder.common import config
from cinder.volume import configuration, manager
from oslo_utils import importutils
config.CONF(["--config-file", FILE], project="cinder")
own = configuration.Configuration(manager.volume_backend_opts, config_group="fisk")
driver = importutils.import_object(own.volume_driver, configuration=own)
driver.do_setup(context.get_admin_context())
driver.check_for_setup_error()
stats = driver.get_volume_stats(refresh=True)
print(*config.CONF.enabled_backends, stats["volume_backend_name"], stats["storage_protocol"])
"""
BACKUP = """
from cinder import objects
objects.register_all()
from cinder.common import config
from cinder.backup import manager
from oslo_utils import importutils
config.CONF(["--config-file", FILE], project="cinder")
print(importutils.import_class(config.CONF.backup_driver).__name__, config.CONF.fisk_pool)
"""
GLANCE = """
import glance_store
from glance.common import config
from oslo_config import cfg
CONF = cfg.CONF
reserved = {"os_glance_staging_store": "file", "os_glance_tasks_store": "file"}
CONF(["--config-file", FILE], project="glance")
glance_store.register_store_opts(CONF, reserved_stores=reserved)
glance_store.create_multi_stores(CONF, reserved_stores=reserved)
glance_store.verify_store()
print(CONF.glance_store.default_backend, glance_store.get_store_from_store_identifier("fisk").pool)
"""
TEMPEST = """
from tempest import config
from tempest.test_discover import plugins
config.CONF.set_config_path(FILE)
found = config.CONF
print(found.volume.vendor_name, found.volume.storage_protocol, found.volume_feature_enabled.volume_revert)
"""


@pytest.fixture(scope="module")
def stacked() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="fisk-") as directory:
        made = Site(Path(directory))
        made.drive(*STACK)
        yield made
        made.drive("clean")


@pytest.mark.parametrize(
    ("program", "file", "says"),
    [
        (NOVA, "nova/nova.conf", "fisk.FiskLibvirtDriver fisk default"),
        (CINDER, "cinder/cinder.conf", "fisk fisk fisk"),
        (BACKUP, "cinder/cinder.conf", "FiskBackupDriver default"),
        (GLANCE, "glance/glance-api.conf", "fisk default"),
        (TEMPEST, "tempest/tempest.conf", "Fisk fisk True"),
    ],
    ids=["nova", "cinder", "backup", "glance", "tempest"],
)
def test_is_read_as_it_is_meant(stacked: Site, program: str, file: str, says: str) -> None:
    path = stacked.path / "etc" / file
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"FILE = {str(path)!r}\n{program}"],
        capture_output=True,
        text=True,
        cwd=stacked.path,
    )
    assert done.stdout.splitlines()[-1:] == [says], done.stdout + done.stderr
