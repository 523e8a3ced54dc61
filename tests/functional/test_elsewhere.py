# SPDX-License-Identifier: Apache-2.0
"""What is attached on another host is changed by the daemon there, if an adapter was told of it."""

from contextlib import ExitStack

import pytest

from fisk_core.client import RemoteEngine
from fisk_core.errors import InUse
from fisk_openstack.elsewhere import Everywhere
from tests.fiskds import running

MIB = 1 << 20


@pytest.fixture
def engines(home):
    """Give the engines of both hosts: the first knows the other one, the other knows of none."""
    shared = {"catalog": {"connection": f"sqlite:///{home}/c.sqlite"}}
    with ExitStack() as stack:
        found = []
        for name in ("alpha", "beta"):
            general = {"host": name, "lock_path": f"{home}/locks"}
            fiskd = stack.enter_context(running(home / name, DEFAULT=general, **shared))
            found.append(stack.enter_context(Everywhere.open(fiskd.url)))
        alpha, beta = found
        alpha.others = {"beta": stack.enter_context(RemoteEngine.open(beta.url))}
        yield alpha, beta


def content(engine, ref):
    with engine.open_disk(ref) as disk:
        return disk.size, bytes(disk.read(0, 5))


def test_what_another_host_serves_is_changed_there(engines):
    alpha, beta = engines
    alpha.create("volume", 4 * MIB)
    alpha.create("second", 4 * MIB)
    alpha.create("unused", MIB)
    with beta.open_disk("volume", writable=True) as disk, beta.open_disk("second", writable=True) as more:
        disk.write(0, b"first")
        more.write(0, b"other")
        assert alpha.resize("volume", 8 * MIB).size == 8 * MIB
        alpha.snapshot("volume", "snapshot")
        alpha.clone("volume", "copy")
        alpha.group_snapshot([("unused", "of-unused"), ("volume", "of-volume"), ("second", "of-second")])
        assert alpha.set("volume", attributes={"a": "b"}).attributes["a"] == "b"
        disk.write(0, b"later")
        assert content(alpha, "snapshot") == content(alpha, "copy") == (8 * MIB, b"first")
        assert content(alpha, "of-second") == (4 * MIB, b"other")
    assert content(beta, "volume") == (8 * MIB, b"later")


def test_a_host_that_waits_for_its_turn_is_not_asked_yet(engines):
    alpha, beta = engines
    alpha.create("volume", MIB)
    with beta.open_disk("volume", writable=True) as disk:
        disk.write(0, b"first")
        alpha.attach("volume", incoming=True)
        alpha.snapshot("volume", "snapshot")
        disk.write(0, b"later")
    assert content(beta, "snapshot") == (MIB, b"first")


def test_hosts_that_are_not_known_and_groups_on_several_are_refused(engines):
    alpha, beta = engines
    for name in ("here", "there"):
        alpha.create(name, MIB)
    with alpha.open_disk("here", writable=True) as own, beta.open_disk("there", writable=True):
        with pytest.raises(InUse, match="alpha"):
            beta.snapshot("here", "snapshot")
        with pytest.raises(InUse, match="alpha"):
            alpha.group_snapshot([("here", "of-here"), ("there", "of-there")])
        own.write(0, b"first")
        alpha.snapshot("here", "snapshot")
    assert content(alpha, "snapshot") == (MIB, b"first")
    assert {each.name for each in alpha.list()} == {"here", "there", "snapshot"}


def test_who_is_alone_asks_for_nothing_more(engines):
    _, beta = engines
    beta.create("volume", MIB)
    beta.snapshot("volume", "snapshot")
    assert beta._own == ""
