# SPDX-License-Identifier: Apache-2.0
"""The driver has every method Cinder's interfaces name, as Cinder calls it."""

import inspect
from collections.abc import Iterator

import pytest
from cinder.interface import (
    base,
    volume_driver,
    volume_group_driver,
    volume_manageable_driver,
    volume_snapshot_revert,
    volume_snapshotmanagement_driver,
)
from cinder.volume import driver

from fisk_openstack.cinder.driver import FiskDriver

INTERFACES = [
    volume_driver.VolumeDriverCore,
    volume_group_driver.VolumeGroupDriver,
    volume_manageable_driver.VolumeListManageableDriver,
    volume_snapshot_revert.VolumeSnapshotRevertDriver,
    volume_snapshotmanagement_driver.VolumeSnapshotManagementDriver,
]
OURS = [
    *("create_cloned_volume", "accept_transfer", "create_export", "ensure_export", "remove_export"),
    *("create_export_snapshot", "remove_export_snapshot", "initialize_connection_snapshot"),
    *(
        "terminate_connection_snapshot",
        "copy_image_to_encrypted_volume",
        "validate_connector",
        "get_driver_options",
    ),
]
"""methods of the base class that no interface names"""


def named(interface: type[base.CinderInterface]) -> Iterator[str]:
    for each in inspect.getmro(interface):
        if each not in (base.CinderInterface, object):
            yield from (name for name, found in vars(each).items() if inspect.isfunction(found))


def names(function: object) -> list[str]:
    """Give the names of what a function takes, without what it collects."""
    found = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return [each.name for each in found if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda each: str(each.__name__))
def test_interface(interface: type[base.CinderInterface]) -> None:
    assert issubclass(FiskDriver, interface)  # what Cinder's own test of drivers asks
    for name in named(interface):
        wanted = names(getattr(interface, name))
        found = getattr(FiskDriver, name)
        if isinstance(found, property):
            continue
        ours = names(found)
        if not any(each.kind is each.VAR_KEYWORD for each in inspect.signature(found).parameters.values()):
            assert wanted == ours[: len(wanted)], name


@pytest.mark.parametrize("name", OURS)
def test_method_of_the_base_class(name: str) -> None:
    wanted, found = getattr(driver.BaseVD, name), getattr(FiskDriver, name)
    assert found is not wanted
    assert names(wanted)[: len(names(found))] == names(found)[: len(names(wanted))], name


def test_driver_is_whole() -> None:
    assert not FiskDriver.__abstractmethods__
    assert FiskDriver.SUPPORTS_ACTIVE_ACTIVE
    assert FiskDriver.SUPPORTED


def test_replication_is_not_claimed() -> None:
    assert not FiskDriver.supports_replication_feature("v2.1")
