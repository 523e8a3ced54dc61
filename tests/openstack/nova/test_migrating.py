# SPDX-License-Identifier: Apache-2.0
"""A server that moves while it runs, as Nova's own functions see it: two daemons, no cloud."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import nova.conf
import pytest
from lxml import etree

from fisk_core.client import RemoteEngine
from fisk_core.dataplane.client import NbdClient
from fisk_core.model import Role
from fisk_openstack.labels import SERVER, Kind, fisk_id, fisk_name, labels
from tests.fiskds import Fiskd, running

CONF = nova.conf.CONF
MIB = 1 << 20
SPICE = "127.0.0.1"


class Stock:
    """What Nova's driver does of all this, as far as Fisks are concerned."""

    def __init__(self, volume_driver: Any, infos: list[Any]) -> None:
        self.volume_driver, self.infos, self.fails = volume_driver, infos, False
        self.released: list[str] = []

    def _release(self, server: str) -> None:
        from fisk_openstack.nova_imagebackend import daemon

        self.released.append(server)
        daemon.release(server)

    def check_can_live_migrate_destination(self, *_: Any) -> str:
        return "checked"

    def check_can_live_migrate_source(self, *_: Any) -> str:
        return "checked"

    def pre_live_migration(
        self, context: Any, instance: Any, info: Any, network: Any, disks: Any, data: Any
    ) -> Any:
        from nova import objects

        data.bdms = []
        for each in self.infos:
            self.volume_driver.connect_volume(each, instance)
            bdm = objects.LibvirtLiveMigrateBDMInfo()
            bdm.serial, bdm.connection_info = each["serial"], each
            bdm.bus, bdm.dev, bdm.type = "virtio", "vdb", "disk"
            data.bdms.append(bdm)
        if self.fails:
            raise RuntimeError("as Nova fails")
        return data

    def post_live_migration(self, context: Any, instance: Any, *_: Any) -> None:
        for each in self.infos:
            self.volume_driver.disconnect_volume(each, instance)

    def post_live_migration_at_destination(self, *_: Any) -> None:
        pass

    def rollback_live_migration_at_source(self, *_: Any) -> None:
        pass


class Hosts:
    """Two hosts; Nova's configuration of the one or the other."""

    def __init__(self, **daemons: Fiskd) -> None:
        self.daemons = daemons

    def on(self, name: str) -> RemoteEngine:
        """Have this process be nova-compute of a host from now on; gives its daemon."""
        from fisk_openstack.nova_imagebackend import daemon

        CONF.set_override("host", name)
        CONF.set_override("fisk_url", self.daemons[name].url, group="fisk")
        daemon.engine.cache_clear()
        daemon.host.cache_clear()
        return daemon.engine()


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> None:
    CONF([], project="nova", default_config_files=[])
    CONF.set_override("state_path", str(tmp_path_factory.mktemp("state")))
    from nova import objects

    from fisk_openstack.nova_imagebackend import driver  # noqa: F401 - registers what is ours

    objects.register_all()
    CONF.set_override("fisk_guest_access", "nbd", group="fisk")


@pytest.fixture
def hosts(configured: None) -> Iterator[Hosts]:
    with TemporaryDirectory(prefix="fisk-") as directory:
        home = Path(directory)
        catalog = {"connection": f"sqlite:///{home}/c.sqlite"}

        def options(name: str) -> dict[str, Any]:
            return {"DEFAULT": {"host": name, "lock_path": f"{home}/locks"}, "catalog": catalog}

        with running(home / "a", **options("a")) as one, running(home / "b", **options("b")) as two:
            yield Hosts(a=one, b=two)


class Server:
    """A server with a disk and a volume on host a."""

    def __init__(self, hosts: Hosts) -> None:
        from fisk_openstack.nova_imagebackend.backend import FiskImage
        from fisk_openstack.nova_imagebackend.migrating import Migrating
        from fisk_openstack.nova_imagebackend.volume import LibvirtFiskVolumeDriver

        engine = hosts.on("a")
        self.uuid, volume = str(uuid4()), str(uuid4())
        flavor = SimpleNamespace(extra_specs={})
        self.instance = SimpleNamespace(uuid=self.uuid, task_state=None, image_ref="image", flavor=flavor)
        own = f"{self.uuid}/disk"
        self.disk_id = fisk_id(Kind.DISK, own)
        attributes = labels(Kind.DISK, own) | {SERVER: self.uuid}
        engine.create(fisk_name(Kind.DISK, own), MIB, role=Role.DISK, id=self.disk_id, attributes=attributes)
        self.volume_id = engine.create("volume", MIB).id
        data = {"fisk_id": self.volume_id, "volume_id": volume}
        self.info: dict[str, Any] = {"driver_volume_type": "fisk", "serial": volume, "data": data}
        self.volumes = LibvirtFiskVolumeDriver(SimpleNamespace(find_secret=lambda *_: None))
        self.volumes.connect_volume(self.info, self.instance)
        mapping = {"bus": "virtio", "dev": "vda", "type": "disk"}
        disk = FiskImage(self.instance, "disk", disk_info_mapping=mapping).libvirt_info("none", {})
        found = [disk, self.volumes.get_config(self.info, {"bus": "virtio", "dev": "vdb", "type": "disk"})]
        inner = "".join(each.to_xml() for each in found)
        self.xml = f"<domain><devices>{inner}</devices></domain>"
        self.driver = type("Driver", (Migrating, Stock), {})(self.volumes, [self.info])

    def data(self) -> Any:
        from nova import objects

        return objects.LibvirtLiveMigrateData(
            bdms=[],
            serial_listen_addr=None,
            serial_listen_ports=[],
            supported_perf_events=[],
            graphics_listen_addr_vnc=SPICE,
            graphics_listen_addr_spice=SPICE,
        )

    def arrive(self, hosts: Hosts) -> Any:
        """Have host b expect it; gives the data of the migration."""
        hosts.on("b")
        self.instance.task_state = "migrating"
        return self.driver.pre_live_migration(None, self.instance, None, None, None, self.data())

    def updated(self, hosts: Hosts, data: Any) -> list[Any]:
        """Give the disks of its configuration as host a sends it to host b."""
        from nova.virt.libvirt import migration

        hosts.on("a")
        guest = SimpleNamespace(get_xml_desc=lambda dump_migratable: self.xml)
        config = self.volumes.get_config
        text = migration.get_updated_guest_xml(self.instance, guest, data, config, get_vif_config=None)
        return list(etree.fromstring(text).iterfind("./devices/disk"))


def address(disk: Any) -> str:
    source = disk.find("source")
    host = source.find("host")
    return f"{source.get('protocol')}://{host.get('name')}:{host.get('port')}/{source.get('name')}"


def on_host(engine: RemoteEngine, host: str) -> dict[str, Any]:
    """Give what is attached on a host, by Fisk."""
    return {each.fisk_id: each for each in engine.attachments(host=host)}


def test_a_server_that_moves(hosts: Hosts) -> None:
    server = Server(hosts)
    before = [address(each) for each in etree.fromstring(server.xml).iterfind("./devices/disk")]
    hosts.on("b")
    assert server.driver.check_can_live_migrate_destination(None, server.instance, {}, {}) == "checked"
    engine = hosts.on("a")
    assert server.driver.check_can_live_migrate_source(None, server.instance, None) == "checked"
    with NbdClient.connect(before[0]) as source:
        source.write(0, b"written on a")
        source.flush()
    data = server.arrive(hosts)
    disks = server.updated(hosts, data)
    expected = on_host(engine, "b")
    assert [each.incoming for each in expected.values()] == [True, True]
    assert [each.get("type") for each in disks] == ["network", "network"]
    for disk, each in zip(disks, (server.disk_id, server.volume_id), strict=True):
        assert address(disk) in expected[each].uris
        assert disk.find("driver").get("cache") == "none"
    assert disks[1].findtext("serial") == server.info["serial"]
    with NbdClient.connect(address(disks[0])) as target:
        assert bytes(target.read(0, 12)) == b"written on a"
        hosts.on("a")
        server.driver.post_live_migration(None, server.instance, None)
        assert on_host(engine, "a") == {}
        hosts.on("b")
        server.driver.post_live_migration_at_destination(None, server.instance, None)
        assert [each.incoming for each in on_host(engine, "b").values()] == [False, False]
        target.write(0, b"W")
        assert bytes(target.read(0, 12)) == b"Written on a"
    hosts.on("b")
    server.driver._release(server.uuid)


def test_a_move_that_fails(hosts: Hosts) -> None:
    server = Server(hosts)
    server.driver.fails = True
    with pytest.raises(RuntimeError):
        server.arrive(hosts)
    engine = hosts.on("a")
    assert on_host(engine, "b") == {}
    server.driver.fails = False
    data = server.arrive(hosts)
    assert server.updated(hosts, data)
    hosts.on("a")
    server.driver.check_can_live_migrate_source(None, server.instance, None)
    assert on_host(engine, "b") == {}  # nova-compute was killed, and begins again
    data = server.arrive(hosts)
    hosts.on("a")
    server.driver.rollback_live_migration_at_source(None, server.instance, data)
    assert on_host(engine, "b") == {}
    assert set(on_host(engine, "a")) == {server.disk_id, server.volume_id}
    server.driver._release(server.uuid)


def test_what_cannot_move(hosts: Hosts) -> None:
    from nova import exception

    server = Server(hosts)
    hosts.on("a").attach(server.volume_id, consumer="another server")
    with pytest.raises(exception.MigrationPreCheckError, match=server.volume_id):
        server.driver.check_can_live_migrate_source(None, server.instance, None)
    server.instance.uuid = str(uuid4())
    with pytest.raises(exception.MigrationPreCheckError, match="does not know"):
        server.driver.check_can_live_migrate_destination(None, server.instance, {}, {})
