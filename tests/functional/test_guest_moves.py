# SPDX-License-Identifier: Apache-2.0
"""A guest in QEMU moves to another host while it writes and verifies its disk, and finds nothing wrong."""

from contextlib import ExitStack

import pytest

from fisk_core.access import access_path
from fisk_core.client import RemoteEngine
from fisk_core.engine import Engine
from tests.engines import MIB
from tests.fiskds import running
from tests.guests import guest, kill_worker
from tests.qmp import Monitor
from tests.waiting import until

BANDWIDTH = 400 * MIB


class Place:
    """A host with its daemon, and the guest that runs or is to run there."""

    def __init__(self, stack, home, name, folder):
        self.stack, self.folder = stack, folder
        folder.mkdir()
        shared = {"host": name, "lock_path": f"{home}/locks"}
        catalog = {"connection": f"sqlite:///{home}/c.sqlite"}
        self.fiskd = stack.enter_context(running(home / name, DEFAULT=shared, catalog=catalog))
        self.client = stack.enter_context(RemoteEngine.open(self.fiskd.url))
        self.attempts = 0

    def run(self, attachment, boots=None, incoming=None):
        """Start QEMU; with ``incoming`` it waits for a guest to come by that socket."""
        self.attempts += 1
        folder = self.folder / str(self.attempts)
        folder.mkdir()
        more = ["-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
        more += ["-incoming", f"unix:{incoming}"] if incoming else []
        self.running = self.stack.enter_context(ExitStack())
        self.guest = self.running.enter_context(guest(folder, attachment, boots, more))
        self.monitor = self.running.enter_context(Monitor(folder / "qmp"))
        return self.guest

    def end(self):
        self.running.close()


@pytest.fixture
def places(home, tmp_path):
    with ExitStack() as stack:
        yield [Place(stack, home, name, tmp_path / name) for name in ("alpha", "beta")]


def begin(places, tmp_path, access="nbd", **parameters):
    """Have the guest begin to move from the first place to the second one; gives the new attachment."""
    source, target = places
    made = target.client.attach("disk", incoming=True, access=access)
    assert made.incoming
    target.run(made, source.guest.boots, tmp_path / "migration")
    source.monitor.call("migrate-set-parameters", **{"max-bandwidth": BANDWIDTH, **parameters})
    source.monitor.call("migrate", uri=f"unix:{tmp_path}/migration")
    return made


def arrive(places, made):
    """Wait until the guest has moved, and verifies its disk over there."""
    source, target = places
    told = source.monitor.migration("completed", "failed")
    assert told["status"] == "completed", told
    target.guest.get_through(2, since=source.guest.rounds)  # it may have arrived while it only read
    assert not target.client.attachment(made.id).incoming
    return told


def settled(places):
    for place in places:
        for attachment in place.client.attachments(host=place.client.about()["host"]):
            place.client.detach(attachment.id)
    until(lambda: not any(place.client.workers() for place in places))
    assert places[0].client.check().problems == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("access", ["nbd", "block"])
def test_a_guest_moves_there_and_back(places, tmp_path, home, access):
    with Engine.open(home / "alpha") as engine:
        if lacking := access_path(access, engine).available():
            pytest.skip(lacking)
    places[0].client.create("disk", 4 * MIB)
    places[0].run(places[0].client.attach("disk", access=access)).get_through(1)
    for _ in range(2):
        made = begin(places, tmp_path, access)
        arrive(places, made)
        places[0].end()
        places[1].client.snapshot("disk", f"disk@{made.host}")
        places[1].guest.get_through(1)
        places.reverse()
    places[0].end()
    settled(places)


@pytest.mark.timeout(600)
def test_a_move_that_is_cancelled(places, tmp_path):
    """QEMU over there ends and flushes its disk; the guest goes on where it is, and moves another time."""
    source, target = places
    source.client.create("disk", 4 * MIB)
    source.run(source.client.attach("disk")).get_through(1)
    made = begin(places, tmp_path, **{"max-bandwidth": 100 << 10})
    source.monitor.migration("active")
    source.monitor.call("migrate_cancel")
    source.monitor.migration("cancelled")
    target.guest.process.wait(60)
    target.end()
    source.guest.get_through(1)
    assert target.client.attachment(made.id).incoming
    target.client.detach(made.id)
    source.guest.get_through(1)
    arrive(places, begin(places, tmp_path))
    source.end()
    target.end()
    settled(places)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["alpha", "beta", "daemons"])
def test_what_dies_below_a_guest_that_moves(places, tmp_path, victim):
    source, target = places
    source.client.create("disk", 4 * MIB)
    source.run(source.client.attach("disk")).get_through(1)
    made = begin(places, tmp_path, **{"max-bandwidth": 2 * MIB})
    source.monitor.migration("active")
    if victim == "daemons":
        for place in places:
            place.fiskd.kill()
            place.fiskd.restart()
    else:
        kill_worker((source if victim == "alpha" else target).client)
    source.monitor.call("migrate-set-parameters", **{"max-bandwidth": BANDWIDTH})
    arrive(places, made)
    source.end()
    target.end()
    settled(places)
