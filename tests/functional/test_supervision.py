# SPDX-License-Identifier: Apache-2.0
"""The supervisor's verbs, with real workers."""

import gc
import os
import re
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from fisk_core import locks
from fisk_core.catalog.fisks import Conflict
from fisk_core.dataplane.client import NbdClient
from fisk_core.engine import Engine
from fisk_core.errors import AlreadyExists, FiskError, InUse, InvalidValue, NotFound, ReadOnly
from fisk_core.model import State
from fisk_core.services import events
from fisk_core.supervision import Supervisor
from tests.engines import MIB, make_volume, read, write
from tests.supervisors import configure, connected, leavings, supervising
from tests.waiting import until


@pytest.fixture
def engine(home):
    configure(home)
    with Engine.open(home) as opened:
        yield opened


@pytest.fixture
def supervisor(engine):
    with supervising(engine) as started:
        yield started


def kinds(engine, fisk_id):
    return [each.kind for each in events.read(engine, 0) if each.fisk_id == fisk_id]


def test_attach_write_detach(engine, supervisor):
    fisk = make_volume(engine)
    made = supervisor.attach("volume", consumer="server 1")
    assert (made.fisk_id, made.host, made.read_only, made.epoch) == (fisk.id, supervisor.host, False, 1)
    with connected(made) as client:
        client.write(0, b"by NBD")
        assert supervisor.attachments() == supervisor.attachments(fisk="volume") == [made]
        assert supervisor.attachments(host="elsewhere") == []
        [status] = supervisor.workers()
        assert (status.fisk_id, status.epoch, status.connections, status.attachments) == (fisk.id, 1, 1, 1)
        assert status.metrics["writes"] == 1
    supervisor.detach(made.id)
    supervisor.detach(made.id)
    with pytest.raises(NotFound):
        supervisor.attachment(made.id)
    assert read(engine, "volume", 0, 6) == b"by NBD"
    assert leavings(engine) == []
    assert kinds(engine, fisk.id) == ["fisk.created", "fisk.attached", "fisk.detached"]


def test_the_same_id_again(engine, supervisor):
    make_volume(engine, "a"), make_volume(engine, "b")
    wanted = str(uuid.uuid4())
    made = supervisor.attach("a", id=wanted)
    assert supervisor.attach("a", id=wanted) == made
    with pytest.raises(AlreadyExists):
        supervisor.attach("b", id=wanted)
    with pytest.raises(AlreadyExists):
        supervisor.attach("a", id=wanted, read_only=True)
    assert len(supervisor.workers()) == 1


def test_attachments_share_one_worker_until_the_last_is_gone(engine, supervisor):
    make_volume(engine)
    first, second = supervisor.attach("volume"), supervisor.attach("volume")
    [status] = supervisor.workers()
    assert status.attachments == 2
    supervisor.detach(first.id)
    assert [each.pid for each in supervisor.workers()] == [status.pid]
    with connected(second) as client:
        client.write(0, b"x")
    supervisor.detach(second.id)
    assert supervisor.workers() == []


def test_readers_of_a_live_fisk_make_way_for_a_writer(engine, supervisor):
    make_volume(engine, content=b"content")
    reader = supervisor.attach("volume", read_only=True)
    assert reader.epoch == 0
    with connected(reader) as client, pytest.raises(FiskError):
        client.write(0, b"x")
    writer = supervisor.attach("volume")
    assert writer.uris != reader.uris
    with connected(writer) as client:
        client.write(0, b"C")
        assert bytes(client.read(0, 7)) == b"Content"


def test_what_cannot_be_attached_leaves_nothing(engine, supervisor):
    make_volume(engine)
    engine.snapshot("volume", "frozen")
    with pytest.raises(ReadOnly):
        supervisor.attach("frozen")
    with pytest.raises(NotFound):
        supervisor.attach("missing")
    with pytest.raises(InvalidValue, match="carrier pigeon"):
        supervisor.attach("volume", access="carrier pigeon")
    with pytest.raises(InvalidValue):
        supervisor.attach("volume", id="no id")
    with engine.open_disk("volume", writable=True), pytest.raises(InUse, match=str(os.getpid())):
        supervisor.attach("volume")
    assert supervisor.attachments() == supervisor.workers() == []
    assert leavings(engine) == []


def test_readers_of_a_frozen_fisk_share_a_worker_that_lingers(home):
    configure(home, linger=60)
    with Engine.open(home) as engine, supervising(engine) as supervisor:
        make_volume(engine, content=b"content")
        fisk = engine.snapshot("volume", "image")
        one, two = (supervisor.attach("image", read_only=True) for _ in range(2))
        [status] = supervisor.workers()
        for each in (one, two):
            supervisor.detach(each.id)
        [waiting] = supervisor.workers()
        assert (waiting.pid, waiting.lingering, waiting.attachments) == (status.pid, True, 0)
        third = supervisor.attach("image", read_only=True)
        with connected(third) as client:
            assert bytes(client.read(0, 7)) == b"content"
        assert [each.pid for each in supervisor.workers()] == [status.pid]
        with pytest.raises(InUse, match="attached"):
            engine.delete("image")
        supervisor.detach(third.id)
        engine.delete("image")
        until(lambda: supervisor.workers() == leavings(engine) == [])
        until(lambda: not engine.home.operation(fisk.id).exists())


def test_a_lingering_worker_ends(home):
    configure(home, linger=0.05)
    with Engine.open(home) as engine, supervising(engine) as supervisor:
        make_volume(engine, content=b"content")
        engine.snapshot("volume", "image")
        supervisor.detach(supervisor.attach("image", read_only=True).id)
        until(lambda: supervisor.workers() == leavings(engine) == [])


def test_verbs_of_the_engine_on_an_attached_fisk(engine, supervisor):
    make_volume(engine, content=b"old")
    made = supervisor.attach("volume")
    with connected(made) as client:
        engine.snapshot("volume", "snap")
        client.write(0, b"new")
        engine.set("volume", name="renamed")
        engine.revert("renamed", "snap")
        assert bytes(client.read(0, 3)) == b"old"
        engine.resize("renamed", 2 * MIB)
    with pytest.raises(InUse, match="attached"):
        engine.delete("renamed")
    with connected(made) as client:
        assert bytes(client.read(0, 3)) == b"old"


def test_a_forced_delete_is_the_end(engine, supervisor):
    fisk = make_volume(engine)
    made = supervisor.attach("volume")
    engine.delete("volume", force=True)
    until(lambda: supervisor.workers() == leavings(engine) == [])
    assert supervisor.attachments() == []
    supervisor.detach(made.id)
    until(lambda: not engine.home.operation(fisk.id).exists())
    assert "worker.restarted" not in kinds(engine, fisk.id)


def test_over_the_network_by_a_name_nobody_can_guess(home):
    configure(home, listen="127.0.0.1:0")
    with Engine.open(home) as engine, supervising(engine) as supervisor:
        make_volume(engine, "a", content=b"a"), make_volume(engine, "b", content=b"b")
        a, b = supervisor.attach("a"), supervisor.attach("b", read_only=True)
        with connected(a, 1) as client:
            client.write(1, b"!")
            assert bytes(client.read(0, 2)) == b"a!"
        with connected(b, 1) as client:
            assert bytes(client.read(0, 1)) == b"b"
            with pytest.raises(FiskError):
                client.write(0, b"x")
        for wrong in (a.uris[1][:-1], a.uris[1].rpartition("/")[0] + "/a"):
            with pytest.raises(FiskError):
                NbdClient.connect(wrong)
        supervisor.detach(a.id)
        with pytest.raises(FiskError):
            connected(a, 1)
        assert len(list(engine.home.exports.iterdir())) == 1


def test_an_upgrade_disconnects_nobody(home):
    configure(home, listen="127.0.0.1:0")
    with Engine.open(home) as engine, supervising(engine) as supervisor:
        make_volume(engine, "a"), make_volume(engine, "b")
        made = [supervisor.attach(name) for name in "ab"]
        before = {each.pid for each in supervisor.workers()}
        with connected(made[0]) as one, connected(made[1], 1) as two:
            one.write(0, b"1"), two.write(0, b"2")
            assert supervisor.upgrade() == 2
            assert before.isdisjoint(each.pid for each in supervisor.workers())
            assert (bytes(one.read(0, 1)), bytes(two.read(0, 1))) == (b"1", b"2")
            assert supervisor.upgrade("a") == 1
            one.write(1, b"!")
        with connected(made[0], 1) as client:
            assert bytes(client.read(0, 2)) == b"1!"
        with pytest.raises(NotFound):
            supervisor.upgrade("c")


def test_a_build_is_hidden_until_it_is_finished(engine, supervisor):
    wanted = str(uuid.uuid4())
    build = supervisor.begin_build("image", size=MIB, id=wanted, attributes={"k": "v"})
    assert supervisor.begin_build("image", size=MIB, id=wanted) == build
    with NbdClient.connect(build.uri) as client:
        client.write(0, b"content")
    assert engine.list() == supervisor.attachments() == []
    with pytest.raises(AlreadyExists):
        engine.create("image", MIB)
    done = supervisor.finish_build(build.fisk_id, size=MIB // 2, frozen=True, attributes={"more": "1"})
    assert supervisor.finish_build(build.fisk_id, size=MIB // 2, frozen=True) == done
    assert (done.id, done.size, done.frozen) == (wanted, MIB // 2, True)
    assert done.attributes == {"k": "v", "more": "1"}
    assert read(engine, "image", 0, 7) == b"content"
    supervisor.abort_build(build.fisk_id)
    assert engine.get("image") == done
    assert leavings(engine) == []
    engine.settle()
    assert engine.check().problems == []


def test_a_build_that_is_aborted(engine, supervisor):
    build = supervisor.begin_build("image", size=MIB)
    with NbdClient.connect(build.uri) as client:
        client.write(0, b"content")
    supervisor.abort_build(build.fisk_id)
    supervisor.abort_build(build.fisk_id)
    with pytest.raises(NotFound):
        supervisor.finish_build(build.fisk_id, size=MIB, frozen=True)
    assert leavings(engine) == []
    assert list(engine.home.run.glob("*-*")) == []
    assert engine.check().problems == []


def test_a_build_nobody_writes_is_removed(home, expect_logs):
    expect_logs("no client")
    configure(home)
    with (home / "fisk.conf").open("a") as file:
        file.write("[workers]\nbuild_idle = 1\n")
    with Engine.open(home) as engine, supervising(engine) as supervisor:
        build = supervisor.begin_build("image", size=MIB)
        until(lambda: not engine.home.socket(build.fisk_id).exists() and leavings(engine) == [])
        until(lambda: engine.list(state=State.BUILDING) == [])  # its row goes last
        engine.create("image", MIB)


def test_two_supervisors_of_one_home(engine, supervisor):
    with pytest.raises(InUse, match="supervises"):
        Supervisor(engine)


def test_many_threads_attach_and_detach(engine, supervisor):
    for name in "abc":
        make_volume(engine, name)
    failures = []

    def work(number):
        try:
            for turn in range(6):
                made = supervisor.attach("abc"[(number + turn) % 3])
                with connected(made) as client:
                    client.write(number * 512, bytes([turn + 1]) * 512)
                supervisor.detach(made.id)
        except FiskError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert supervisor.attachments() == supervisor.workers() == []
    assert leavings(engine) == []
    assert engine.check().problems == []


def test_500_attachments_leave_nothing(engine, supervisor):
    """Processes, descriptors, sockets, marks, routes, locks and rows: as many as before."""
    names = [make_volume(engine, name, content=b"content").name for name in "abcd"]
    supervisor.detach(supervisor.attach("a").id)
    gc.collect()  # what others left to it may hold descriptors
    children, before = count_children(), descriptors()

    def work(name):
        for _ in range(125):
            supervisor.detach(supervisor.attach(name).id)

    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(work, names))
    assert supervisor.attachments() == supervisor.workers() == []
    assert leavings(engine) == []
    assert not any(locks.is_held(engine.home.operation(engine.get(name).id)) for name in names)
    until(lambda: count_children() <= children)
    until(lambda: not descriptors() - before)
    write(engine, "a", 0, b"free")


def descriptors():
    """Give how many files we have open, by name or kind, but for the catalog: it keeps some connections."""
    paths = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return Counter(re.sub(r"\d+", "N", path) for path in paths if "catalog.sqlite" not in path)


def count_children():
    """Count our children, and theirs that have not ended."""
    mine = {os.getpid()}
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                parents[int(name)] = int(fields[1])
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return len(mine)


def test_a_worker_that_cannot_start_leaves_nothing(home):
    long = home / ("long" * 25)  # no client could connect to a socket there
    configure(long)
    with Engine.open(long) as engine, supervising(engine) as supervisor:
        make_volume(engine, content=b"content")
        with pytest.raises(InvalidValue, match="as long as"):
            supervisor.attach("volume")
        with pytest.raises(InvalidValue, match="as long as"):
            supervisor.begin_build("image", size=MIB)
        assert supervisor.attachments() == supervisor.workers() == leavings(engine) == []
        assert read(engine, "volume", 0, 7) == b"content"
        engine.create("image", MIB)
        assert engine.check().problems == []


def test_one_of_many_builds_of_the_same_name(engine, supervisor):
    with ThreadPoolExecutor(4) as threads:
        begun = [threads.submit(supervisor.begin_build, "image", size=MIB) for _ in range(4)]
    builds = [each.result() for each in begun if each.exception() is None]
    assert {type(each.exception()) for each in begun} == {type(None), Conflict}
    assert [each.fisk_id for each in supervisor.workers()] == [build.fisk_id for build in builds]
    supervisor.abort_build(builds[0].fisk_id)
    assert leavings(engine) == []
