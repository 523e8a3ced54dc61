# SPDX-License-Identifier: Apache-2.0
"""Both programs have the same commands, each describes itself, and none asks Keystone."""

from importlib.metadata import entry_points

import pytest
from cliff.command import Command

from fisk_core.cli.base import FiskCommand

OURS = {entry.name: entry for entry in entry_points(group="fisk.cli")}
THEIRS = {entry.name: entry for entry in entry_points(group="openstack.fisk.v1")}
VERBS = [
    "create",
    "import",
    "download",
    "snapshot",
    "clone",
    "revert",
    "resize",
    "delete",
    "list",
    "show",
    "set",
    "diff",
    "tree",
    "check",
    "scrub",
    "gc",
    "serve",
    "map",
    "move",
    "openstack_list",
    "openstack_reconcile",
    "openstack_show",
    "openstack_tree",
    "route",
    "pool_create",
    "pool_list",
    "pool_show",
    "pool_rescan",
    "pool_set",
    "attach",
    "attachment_list",
    "attachment_promote",
    "attachment_show",
    "detach",
    "event_list",
    "job_cancel",
    "job_list",
    "job_show",
    "job_wait",
    "lock_acquire",
    "lock_list",
    "lock_release",
    "qos_set",
    "qos_show",
    "schedule_create",
    "schedule_delete",
    "schedule_list",
    "schedule_set",
    "schedule_show",
    "token_create",
    "token_delete",
    "token_list",
    "top",
    "worker_list",
    "worker_upgrade",
]


def test_every_verb_is_there():
    assert sorted(OURS) == sorted(VERBS)


def test_the_openstack_client_has_the_same_classes():
    """There, those that know the cloud take the place of those that do not."""
    knowing = {name: entry for name, entry in OURS.items() if name.startswith("openstack_")}
    wanted = {name: entry.value for name, entry in OURS.items() if name not in knowing}
    wanted |= {name.removeprefix("openstack_"): entry.value for name, entry in knowing.items()}
    assert {name.removeprefix("fisk_"): entry.value for name, entry in THEIRS.items()} == wanted
    assert all(name.startswith("fisk_") for name in THEIRS)


@pytest.mark.parametrize("name", VERBS)
def test_a_command_describes_itself_and_needs_no_cloud(name):
    command = OURS[name].load()
    assert issubclass(command, FiskCommand)
    assert command.__doc__
    assert command.__doc__ != Command.__doc__
    assert command.auth_required is False
