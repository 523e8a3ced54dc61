# SPDX-License-Identifier: Apache-2.0
"""Hosts that are played have a node name and directories of their own, and the machine keeps its own."""

import os
import subprocess
from pathlib import Path

import pytest

from devstack.ministack.hosts import ComputeHost, hosts_of
from devstack.ministack.place import Place
from tests.openstack.cloud import COMPUTES, PLACE, unique

_GUEST = """
<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64'>hvm</type></os></domain>
"""


def place(directory: Path) -> Place:
    made = Place.below(directory, "fisk", 2)
    made.make()
    return made


def ran(host: ComputeHost, *words: str, mounts: dict[Path, Path] | None = None) -> str:
    command = host.command(words, mounts)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_each_number_of_hosts_has_a_place_of_its_own(tmp_path: Path) -> None:
    one, two = (Place.below(tmp_path, "fisk", count).directory for count in (1, 2))
    assert (one.name, two.name) == ("fisk", "fisk-2")


def test_hosts_share_nothing_that_tells_them_apart(tmp_path: Path) -> None:
    first, second = hosts_of(place(tmp_path))
    for host in (first, second):
        host.make()
    for of in (
        lambda host: host.name,
        lambda host: host.address,
        lambda host: host.uuid,
        lambda host: host.data,
    ):
        assert of(first) != of(second)
    assert second.uuid == ComputeHost(second.place, 2).uuid


def test_a_host_that_is_played_finds_its_own_at_the_common_paths(tmp_path: Path) -> None:
    where = place(tmp_path)
    first, second = hosts_of(where)
    second.make()  # what it covers, too
    for host in (first, second):
        (host.data / "nova" / "own").write_text(host.name)
    common, more = where.data / "nova" / "own", tmp_path / "it's more"
    more.mkdir()
    assert ran(first, "cat", str(common)) == "ministack"
    assert ran(second, "cat", str(common)) == "ministack-2"
    assert ran(first, "hostname") == os.uname().nodename
    assert ran(second, "hostname") == "ministack-2"
    assert ran(first, "ls", str(more), mounts={first.data / "nova": more}) == "own"
    assert os.uname().nodename != "ministack-2"
    assert common.read_text() == "ministack"


def virsh(host: ComputeHost, *words: str) -> str:
    command = ["virsh", "--connect", f"qemu:///system?socket={host.socket}", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(COMPUTES < 2, reason="one compute host is up; 'ministack --computes 2' has two")
def test_libvirt_takes_a_running_guest_to_the_other_host_and_back(tmp_path: Path) -> None:
    first, second = hosts_of(Place(PLACE, "fisk", COMPUTES))
    name, definition = unique("guest"), tmp_path / "guest.xml"
    definition.write_text(_GUEST.format(name=name))
    virsh(first, "create", str(definition))
    try:
        for here, there in ((first, second), (second, first)):
            # As Nova does: live_migration_uri with the address of the other host, where QEMU listens, too.
            to = f"qemu+unix:///system?socket={there.socket}"
            virsh(here, "migrate", "--live", "--p2p", name, to, f"tcp://{there.address}")
            assert name not in virsh(here, "list", "--all", "--name").split()
            assert virsh(there, "domstate", name).strip() == "running"
    finally:
        for host in (first, second):
            if name in virsh(host, "list", "--name").split():
                virsh(host, "destroy", name)
