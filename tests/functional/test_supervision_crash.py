# SPDX-License-Identifier: Apache-2.0
"""Workers, zygotes, acceptors and supervisors that are killed: what was attached is served again."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fisk_core.catalog import attachments
from fisk_core.dataplane import control
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.zygote import Zygote
from fisk_core.engine import Engine, opening
from fisk_core.errors import FiskError, InUse
from fisk_core.services import events, sweep
from fisk_core.supervision import Supervisor, keeping
from tests.engines import BLOCK, MIB, make_volume, read
from tests.supervisors import configure, connected, leavings, processes_of, reconnected, supervising
from tests.waiting import until, until_equal


@pytest.fixture
def engine(home, monkeypatch):
    configure(home)
    monkeypatch.setenv("FISK_HOME", str(home))
    with Engine.open(home) as opened:
        yield opened


def one_worker(supervisor):
    """Give how the one worker is doing; it serves before it is noted."""
    until(supervisor.workers)
    [status] = supervisor.workers()
    return status


def kill(supervisor):
    """Kill the one worker; returns once it is gone."""
    status = one_worker(supervisor)
    pidfd = os.pidfd_open(status.pid)
    os.kill(status.pid, signal.SIGKILL)
    assert keeping.has_ended(pidfd, 10)
    os.close(pidfd)


def test_a_killed_worker_is_back_at_the_same_address(engine, expect_logs):
    expect_logs(r"ended \(signal 9\); starting one")
    fisk = make_volume(engine)
    with supervising(engine) as supervisor:
        made = supervisor.attach("volume")
        with connected(made) as client:
            client.write(0, b"flushed")
            client.flush()
            engine.set("volume", name="renamed")  # the export keeps the name that clients know
            kill(supervisor)
        with reconnected(made) as client:
            assert bytes(client.read(0, 7)) == b"flushed"
            client.write(7, b"!")
        status = one_worker(supervisor)
        assert status.epoch == supervisor.attachment(made.id).epoch == made.epoch + 1
        until(lambda: "worker.restarted" in [each.kind for each in events.read(engine, 0)])
        engine.snapshot("renamed", "snap")
        assert read(engine, "snap", 0, 8) == b"flushed!"
        supervisor.detach(made.id)
        assert leavings(engine) == []
        assert engine.get(fisk.id).name == "renamed"


def test_one_that_ends_again_and_again_is_started_less_often(engine, expect_logs):
    expect_logs("starting one")
    expect_logs("again; starting another in")
    make_volume(engine)
    with supervising(engine) as supervisor:
        made = supervisor.attach("volume")
        for _ in range(4):
            kill(supervisor)
            reconnected(made).close()
        until_equal(lambda: [each.restarts for each in supervisor.workers()], [4])
        supervisor.detach(made.id)
        assert leavings(engine) == []


def test_nothing_flushed_is_lost_however_often_the_worker_is_killed(engine, expect_logs):
    """A client writes a number to all blocks in turn, flushes, and comes back each time."""
    expect_logs("the worker of Fisk .* (ended|is not there)")
    make_volume(engine)
    blocks, flushed, stop = 16, [0], threading.Event()

    def load(made):
        number = 0
        while not stop.is_set():
            try:
                with reconnected(made) as client:
                    while not stop.is_set():
                        number += 1
                        for block in range(blocks):
                            client.write(block * 64 * BLOCK, number.to_bytes(8, "big") * (BLOCK // 8))
                        client.flush()
                        flushed[0] = number
            except FiskError:
                continue

    with supervising(engine) as supervisor:
        made = supervisor.attach("volume")
        thread = threading.Thread(target=load, args=(made,))
        thread.start()
        for _ in range(4):
            before = flushed[0]
            until(lambda before=before: flushed[0] > before + 2)
            kill(supervisor)
            engine.snapshot("volume", f"snap-{before}")  # finds a worker, or nobody: never half of one
            until(supervisor.workers)
        stop.set()
        thread.join()
        supervisor.detach(made.id)
    for block in range(blocks):
        number = int.from_bytes(read(engine, "volume", block * 64 * BLOCK, 8), "big")
        assert number >= flushed[0]
    engine.settle()
    assert engine.check().problems == []


def test_qemu_goes_on_after_the_worker_was_killed(engine, expect_logs):
    expect_logs("starting one")
    make_volume(engine, size=8 * MIB)
    with supervising(engine) as supervisor:
        made = supervisor.attach("volume")
        path = engine.home.socket(made.fisk_id)
        options = f"driver=nbd,server.type=unix,server.path={path},export=volume,reconnect-delay=20"
        qemu = subprocess.Popen(
            ["qemu-io", "--image-opts", options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert qemu.stdin is not None
        for line, count in (
            ("write -P 1 0 4M", "writes"),
            ("flush", "flushes"),
        ):  # it reads one line at a time
            qemu.stdin.write(f"{line}\n")
            qemu.stdin.flush()
            until(lambda count=count: supervisor.workers()[0].metrics[count])
        kill(supervisor)
        said, _ = qemu.communicate("write -P 2 1M 1M\nflush\nread -P 1 0 1M\nread -P 2 1M 1M\nquit\n", 60)
        assert qemu.returncode == 0, said
        assert "failed" not in said
    assert read(engine, "volume", MIB, 2) == b"\2\2"


def test_fio_verifies_what_it_wrote_while_the_worker_is_handed_over(engine, tmp_path):
    make_volume(engine, size=8 * MIB)
    with supervising(engine) as supervisor:
        made = supervisor.attach("volume")
        command = ["fio", "--name=v", "--ioengine=nbd", f"--uri={made.uris[0]}", "--rw=randwrite", "--bs=4k"]
        command += ["--size=8m", "--verify=crc32c", "--verify_state_save=0", "--loops=2", "--iodepth=8"]
        fio = subprocess.Popen([*command, "--output-format=json"], stdout=subprocess.PIPE, cwd=tmp_path)
        until(lambda: supervisor.workers()[0].connections)
        assert [supervisor.upgrade("volume") for _ in range(5)] == [1] * 5
        output, _ = fio.communicate()
        assert fio.returncode == 0, output
        assert json.loads(output[output.index(b"{") :])["jobs"][0]["error"] == 0


def test_a_killed_zygote_is_replaced(engine, expect_logs):
    expect_logs("the process that starts workers ended")
    make_volume(engine, "a"), make_volume(engine, "b")
    with supervising(engine) as supervisor:
        made = supervisor.attach("a")
        os.kill(supervisor._core.workers.zygotes.pid, signal.SIGKILL)
        supervisor.attach("b")
        with connected(made) as client:
            client.write(0, b"x")
        assert len(supervisor.workers()) == 2


def test_a_killed_acceptor_is_replaced(home, expect_logs):
    expect_logs("the acceptor ended")
    configure(home, listen="127.0.0.1:0")
    with Engine.open(home) as engine, supervising(engine) as supervisor:
        make_volume(engine)
        first = control.call(engine.home.acceptor, {"op": "status"})
        os.kill(first["pid"], signal.SIGKILL)
        until(lambda: supervisor._core.network.address not in (None, (first["host"], first["port"], False)))
        made = supervisor.attach("volume")
        with connected(made, 1) as client:
            client.write(0, b"x")


def test_workers_outlive_their_supervisor(home, expect_logs):
    configure(home, listen="127.0.0.1:0")
    with Engine.open(home) as engine:
        make_volume(engine, "a"), make_volume(engine, "b")
        with Supervisor(engine) as supervisor:
            made = [supervisor.attach(name) for name in "ab"]
            build = supervisor.begin_build("image", size=MIB)
            client = connected(made[0])
        with client, NbdClient.connect(build.uri) as builder:
            client.write(0, b"nobody supervises")
            builder.write(0, b"built")
            with connected(made[1], 1) as other:
                pid = control.call(engine.home.control(made[1].fisk_id), {"op": "status"})["pid"]
                other.write(0, b"b")
                other.flush()
            os.kill(pid, signal.SIGKILL)
            expect_logs("is not there; starting one")
            with supervising(engine) as supervisor:
                until(lambda: len(supervisor.workers()) == 3)
                assert supervisor.attachments() == [made[0], supervisor.attachment(made[1].id)]
                with reconnected(made[1]) as other:
                    assert bytes(other.read(0, 1)) == b"b"
                client.write(0, b"another")
                assert supervisor.finish_build(build.fisk_id, size=MIB, frozen=True).name == "image"
                for each in made:
                    supervisor.detach(each.id)
                assert leavings(engine) == []
        assert read(engine, "image", 0, 5) == b"built"


def kill_quietly(engine, fisk_id):
    """Kill a worker that nobody supervises."""
    pidfd = os.pidfd_open(control.call(engine.home.control(fisk_id), {"op": "status"})["pid"])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert keeping.has_ended(pidfd, 10)
    os.close(pidfd)


def test_what_a_killed_worker_left_goes_with_its_mark(engine):
    """A supervisor died after it had killed a worker, and before it had cleaned up."""
    make_volume(engine)
    with Supervisor(engine) as supervisor:
        made = supervisor.attach("volume")
    kill_quietly(engine, made.fisk_id)
    with engine.catalog.change() as conn:
        attachments.remove(conn, made.id)
    assert engine.home.control(made.fisk_id).exists()
    with supervising(engine):
        assert leavings(engine) == []


def test_an_abort_that_failed_half_way_left_no_socket(engine, monkeypatch):
    with supervising(engine) as supervisor:
        build = supervisor.begin_build("image", size=MIB)
        with monkeypatch.context() as patch:
            patch.setattr(sweep, "remove", lambda *_: pytest.fail("here it was killed"))
            with pytest.raises(pytest.fail.Exception):
                supervisor.abort_build(build.fisk_id)
        assert leavings(engine) == []
    engine.check(repair=True)
    assert engine.check().problems == []


@pytest.mark.parametrize("read_only", [True, False])
def test_a_worker_whose_supervisor_was_killed_while_it_started_is_waited_for(engine, read_only):
    """Readers share the Fisk's lock: a second one would take the first one's address away."""
    name = make_volume(engine, content=b"x").name
    if read_only:
        name = engine.snapshot(name, "snap").name
    fisk_id = engine.get(name).id
    home = engine.home
    with supervising(engine) as supervisor, Zygote() as killed, ThreadPoolExecutor() as threads:
        home.mark(fisk_id).touch()
        with opening.acquire_held(engine, engine.find(fisk_id), writable=not read_only) as lock:
            attached = threads.submit(supervisor.attach, name, read_only=read_only)
            time.sleep(0.3)
            paths = [str(path(fisk_id)) for path in (home.socket, home.reader, home.control)]
            options = ServeOptions(unix=paths[0], reader=paths[1], control=paths[2], export=name)
            spec = opening.disk_spec(engine, fisk_id, read_only=read_only)
            pid, _ = killed.spawn(spec, options, lock.fd)
        assert [attached.result().fisk_id, supervisor.workers()[0].pid] == [fisk_id, pid]
        supervisor.detach(attached.result().id)
        assert leavings(engine) == []


def test_who_cannot_have_the_lock_leaves_the_mark_of_who_has_it(engine):
    fisk = make_volume(engine)
    mark = engine.home.mark(fisk.id)
    with supervising(engine) as supervisor, engine.open_disk("volume", writable=True):
        for there in (False, True):
            if there:
                mark.touch()
            with pytest.raises(InUse):
                supervisor.attach("volume")
            assert mark.exists() == there
        mark.unlink()


CHAOS = """
import random, sys, threading
from pathlib import Path
from fisk_core.engine import Engine
from fisk_core.errors import FiskError
from fisk_core.supervision import Supervisor

engine = Engine.open(Path(sys.argv[1]))
supervisor = Supervisor(engine)
print("ready", flush=True)

def work(number):
    chance = random.Random(number)
    while True:
        try:
            ref = chance.choice(["a", "b", "image"])
            made = supervisor.attach(ref, read_only=ref == "image")
            if chance.random() < 0.7:
                supervisor.detach(made.id)
            if chance.random() < 0.1:
                build = supervisor.begin_build(f"build-{number}", size=1 << 20)
                supervisor.abort_build(build.fisk_id)
            if len(supervisor.attachments()) > 12:
                for each in supervisor.attachments():
                    supervisor.detach(each.id)
        except FiskError:
            pass

threads = [threading.Thread(target=work, args=(int(sys.argv[2]) * 10 + number,)) for number in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_supervisors_killed_at_any_moment_leave_what_was_attached_and_nothing_else(engine, monkeypatch):
    monkeypatch.setattr(keeping.LOG, "disabled", True)  # what it has to say depends on the moment
    make_volume(engine, "a", content=b"a"), make_volume(engine, "b", content=b"b")
    make_volume(engine, "c", content=b"image")
    engine.snapshot("c", "image")
    chance = random.Random(5)
    for turn in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", CHAOS, str(engine.home.path), str(turn)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() * 0.5)
        process.kill()
        process.communicate()
    with supervising(engine) as supervisor:
        attached = supervisor.attachments()
        until(lambda: {each.fisk_id for each in supervisor.workers()} >= {each.fisk_id for each in attached})
        for each in attached:
            with reconnected(each) as client:
                assert bytes(client.read(0, 1)) in (b"a", b"b", b"i")
        for each in attached:
            supervisor.detach(each.id)
        for row in supervisor._core.rows():
            supervisor.abort_build(row.fisk_id)
        until_equal(lambda: (supervisor.workers(), leavings(engine), supervisor._core.rows()), ([], [], []))
    until(lambda: processes_of(engine.home.path) == [os.getpid()] or not processes_of(engine.home.path))
    engine.check(repair=True)
    assert engine.check().problems == []
