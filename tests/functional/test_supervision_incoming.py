# SPDX-License-Identifier: Apache-2.0
"""A Fisk whose guest moves: the other host waits for its turn, sees all that is flushed, and takes over."""

import os
import random
import signal
import threading
import time
from dataclasses import asdict

import pytest

from fisk_core import locks
from fisk_core.engine import Engine
from fisk_core.errors import FiskError, InUse, Unsupported
from fisk_core.supervision import Supervisor
from tests.engines import MIB, make_volume
from tests.hosts import kinds, left_to_its_host, two_hosts
from tests.supervisors import connected, leavings, reconnected, supervising
from tests.waiting import until

BLOCK = 4096


def waiting_files(engine):
    return [path.name for path in engine.home.lock_path.glob("*.*coming")] + [
        path.name for path in engine.home.lock_path.glob("*.outgoing")
    ]


def spec_of(engine):
    return asdict(engine.disk_spec("volume", True))


def test_reads_before_the_turn_see_what_was_flushed(hosts):
    (alpha, one), (_, two) = hosts
    make_volume(alpha, content=b"at first")
    with connected(one.attach("volume")) as source:
        made = two.attach("volume", incoming=True)
        assert (made.incoming, made.epoch, made.host) == (True, 0, "beta")
        with connected(made) as target:
            assert target.size == MIB
            assert bytes(target.read(0, 8)) == b"at first"
            source.write(0, b"flushed!")
            source.flush()
            assert bytes(target.read(0, 8)) == b"flushed!"
            alpha.snapshot("volume", "while-it-waits")
            source.write(0, b"further.")
            source.flush()
            assert bytes(target.read(0, 8)) == b"further."
            target.flush()  # as QEMU does when it ends: no sign that a guest has come
            source.write(0, b"original")
            source.flush()
            assert bytes(target.read(0, 8)) == b"original"


def test_the_first_change_takes_over(hosts):
    (alpha, one), (beta, two) = hosts
    fisk = make_volume(alpha, content=b"content")
    left = one.attach("volume")
    with connected(left) as source, connected(two.attach("volume", incoming=True)) as target:
        source.write(8 * BLOCK, b"never flushed by its client")
        began = time.monotonic()
        target.write(4 * BLOCK, b"beta")
        assert time.monotonic() - began < 5
        assert bytes(target.read(8 * BLOCK, 27)) == b"never flushed by its client"
        assert bytes(target.read(0, 7)) == b"content"
        with pytest.raises(FiskError):
            source.write(0, b"too late")
        source.flush()  # as QEMU does when it ends: all it was told of is durable
        target.flush()
        [row] = two.attachments()
        assert (row.host, row.incoming, row.epoch) == ("beta", False, left.epoch + 1)
        assert waiting_files(beta) == []
    until(lambda: one.workers() == [])
    until(lambda: leavings(alpha) == [f"{fisk.id}.lock"])
    one.detach(left.id)
    two.detach(row.id)
    beta.check(repair=True)
    assert beta.check().errors == []


def test_promoting_by_name(hosts):
    (alpha, one), (_, two) = hosts
    make_volume(alpha, content=b"content")
    one.attach("volume")
    made = two.attach("volume", incoming=True)
    with pytest.raises(InUse, match="beta"):
        one.promote(made.id)
    promoted = two.promote(made.id)
    assert not promoted.incoming
    assert two.promote(made.id) == promoted
    with connected(promoted) as client:
        client.write(0, b"C")
        assert two.upgrade("volume") == 1  # the successor has lock and epoch, too
        client.write(1, b"O")
        assert bytes(client.read(0, 7)) == b"COntent"
        assert locks.is_held(two.engine.home.lock(made.fisk_id))
    assert [each.epoch for each in two.workers()] == [promoted.epoch]


def test_a_move_that_is_cancelled_leaves_nothing(hosts):
    (alpha, one), (beta, two) = hosts
    make_volume(alpha)
    with connected(one.attach("volume")) as source:
        source.write(0, b"before")
        made = two.attach("volume", incoming=True)
        with connected(made) as target:
            target.read(0, 512)
            target.flush()
        two.detach(made.id)
        source.write(0, b"behind")
        source.flush()
        assert (two.attachments(host="beta"), two.workers(), waiting_files(beta)) == ([], [], [])
        assert bytes(source.read(0, 6)) == b"behind"
        until(lambda: not one._core.workers.status(one.workers()[0].fisk_id)["fenced"])
        again = two.attach("volume", incoming=True)
        with connected(again) as target:
            assert bytes(target.read(0, 6)) == b"behind"


def test_the_collector_is_for_the_host_that_writes(hosts):
    (alpha, one), (beta, two) = hosts
    make_volume(alpha, content=bytes(range(1, 256)) * (MIB // 255))
    alpha.snapshot("volume", "snap")
    with connected(one.attach("volume")) as source:
        two.attach("volume", incoming=True)
        source.write(0, bytes(MIB // 2))
        source.flush()
        assert left_to_its_host(alpha, beta, "snap", MIB // 4)


def test_the_source_ends_what_waits_for_it(hosts):
    (alpha, one), (_, two) = hosts
    make_volume(alpha, content=b"content")
    with connected(one.attach("volume")) as source:
        for _ in range(3):
            made = two.attach("volume", incoming=True)
            with pytest.raises(InUse, match="beta"):
                one.detach(made.id)
            one.detach(made.id, force=True)
            assert waiting_files(alpha) == []
            source.write(0, b"C")
        one.detach(two.attach("volume", incoming=True).id, force=True)
        until(lambda: two.workers() == [] and waiting_files(alpha) == [])
        source.write(0, b"c")
        assert bytes(source.read(0, 7)) == b"content"


def test_it_moves_back_and_forth(hosts):
    (alpha, one), (_, two) = hosts
    make_volume(alpha)
    holder = connected(one.attach("volume"))
    for turn in range(6):
        text = b"turn %d" % turn
        holder.write(0, text)
        made = (two, one)[turn % 2].attach("volume", incoming=True)
        target = connected(made)
        target.write(BLOCK, text)
        assert bytes(target.read(0, 6)) == text
        holder.close()
        holder = target
    holder.close()


def test_what_cannot_wait_is_refused(hosts):
    (alpha, one), (_, two) = hosts
    make_volume(alpha)
    first = one.attach("volume")
    with pytest.raises(Unsupported, match="iscsi"):
        two.attach("volume", incoming=True, access="iscsi")
    second = one.attach("volume", consumer="another")
    with pytest.raises(InUse, match="2 times"):
        two.attach("volume", incoming=True)
    one.detach(second.id)
    made = two.attach("volume", incoming=True)
    with pytest.raises(InUse, match="beta"):
        two.attach("volume", incoming=True)
    with pytest.raises(InUse, match="beta"):
        two.attach("volume", steal=True)
    assert two.attach("volume", incoming=True, id=made.id) == made
    with pytest.raises(InUse):
        two.engine.snapshot("volume", "elsewhere")
    for request in ({"op": "resize", "size": 2 * MIB}, {"op": "switch", "spec": spec_of(two.engine)}):
        with pytest.raises(InUse, match="another host"):
            two._core.workers.ask(made.fisk_id, request)
    with pytest.raises(InUse, match="waits for its turn"):
        two.upgrade("volume")
    one.detach(first.id)


def test_readers_have_nothing_to_hand_over(hosts):
    (alpha, one), (_, two) = hosts
    make_volume(alpha)
    one.attach("volume", read_only=True)
    with pytest.raises(InUse, match="read on alpha"):
        two.attach("volume", incoming=True)


def test_a_source_that_is_dead(homes):
    """Nobody there lets go, and nobody has to: its lock ended with it."""
    with Engine.open(homes[0]) as alpha, Engine.open(homes[1]) as beta, supervising(beta) as two:
        make_volume(alpha)
        with Supervisor(alpha, alpha.settings) as one:
            made = one.attach("volume")
            [status] = one.workers()
        with connected(made) as source:
            source.write(0, b"flushed")
            source.flush()
            with connected(two.attach("volume", incoming=True)) as target:
                os.kill(status.pid, signal.SIGKILL)
                assert bytes(target.read(0, 7)) == b"flushed"
                target.write(0, b"F")
                assert bytes(target.read(0, 7)) == b"Flushed"


def test_without_another_host_it_is_as_any_attachment(hosts):
    (alpha, one), _ = hosts
    make_volume(alpha)
    assert not one.attach("volume", incoming=True).incoming


def test_nobody_opposes_any_more(hosts):
    (alpha, one), (_, two) = hosts
    make_volume(alpha)
    first = one.attach("volume")
    made = two.attach("volume", incoming=True)
    one.detach(first.id)
    until(lambda: not two.attachment(made.id).incoming)


def test_a_writer_that_does_not_answer(homes):
    with (homes[1] / "fisk.conf").open("a") as file:
        file.write("[workers]\nfence_seconds = 0.2\n")
    with two_hosts(homes) as ((alpha, one), (_, two)):
        make_volume(alpha)
        made = one.attach("volume")
        [status] = one.workers()
        os.kill(status.pid, signal.SIGSTOP)
        try:
            with pytest.raises(InUse, match="does not answer"):
                two.attach("volume", incoming=True)
        finally:
            os.kill(status.pid, signal.SIGCONT)
        assert two.attachments() == [made]


def test_data_that_need_not_last_moves_all_the_same(hosts):
    """Flushes of the class scratch are only answered, until another host waits."""
    (alpha, one), (_, two) = hosts
    make_volume(alpha)
    alpha.set("volume", attributes={"fisk.class": "scratch"})
    with connected(one.attach("volume")) as source:
        source.write(0, b"early")
        with connected(two.attach("volume", incoming=True)) as target:
            assert bytes(target.read(0, 5)) == b"early"
            source.write(0, b"later")
            source.flush()
            assert bytes(target.read(0, 5)) == b"later"


def test_killed_workers_on_both_sides(hosts, expect_logs):
    expect_logs("starting one")
    (alpha, one), (_, two) = hosts
    make_volume(alpha)
    source = one.attach("volume")
    made = two.attach("volume", incoming=True)
    with connected(source) as client:
        client.write(0, b"flushed")
        client.flush()
    for supervisor, attachment in ((two, made), (one, source), (two, made)):
        [status] = supervisor.workers()
        os.kill(status.pid, signal.SIGKILL)
        until(lambda s=supervisor, old=status.pid: [each.pid for each in s.workers()] not in ([], [old]))
        with reconnected(attachment) as client:
            assert bytes(client.read(0, 7)) == b"flushed"
    with reconnected(source) as client:
        client.write(0, b"FLUSHED")
        client.flush()
    with reconnected(made) as client:
        assert bytes(client.read(0, 7)) == b"FLUSHED"
        client.write(0, b"b")
        assert bytes(client.read(0, 7)) == b"bLUSHED"


def test_a_supervisor_that_is_not_there_when_the_turn_comes(homes):
    with two_hosts(homes) as ((alpha, one), (beta, two)):
        make_volume(alpha)
        one.attach("volume")
        made = two.attach("volume", incoming=True)
        two.close()
        with connected(made) as client:
            writing = threading.Thread(target=client.write, args=(0, b"late"))
            writing.start()
            until(lambda: locks.is_held(beta.home.lock(made.fisk_id)))
            time.sleep(0.2)
            assert writing.is_alive()
            with Supervisor(beta, beta.settings) as again:
                writing.join(20)
                assert not again.attachment(made.id).incoming
                assert bytes(client.read(0, 4)) == b"late"
                again.drain()


def test_a_crash_between_the_row_and_the_worker(homes, monkeypatch):
    """The row says that this host writes; its worker does not know it."""
    with two_hosts(homes) as ((alpha, one), (beta, two)):
        make_volume(alpha, content=b"content")
        one.attach("volume")
        made = two.attach("volume", incoming=True)

        def crash(*_args, give):
            os.close(give[0])
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("fisk_core.supervision.workers.control.call", crash)
            with pytest.raises(KeyboardInterrupt):
                two.promote(made.id)
        assert not two.attachment(made.id).incoming
        two.close()
        with Supervisor(beta, beta.settings) as again:
            with connected(made) as client:
                client.write(0, b"C")
                assert bytes(client.read(0, 7)) == b"Content"
            again.drain()


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_equals_a_model(hosts, seed):
    """Random changes on one side; what the other side reads behind each flush is exactly that."""
    chance = random.Random(seed)
    (alpha, one), (_, two) = hosts
    make_volume(alpha, size=MIB // 4)
    sides, writer, model = (one, two), 0, bytearray(MIB // 4)
    client = connected(one.attach("volume"))
    for step in range(4):
        other = sides[1 - writer].attach("volume", incoming=True)
        with connected(other) as reader:
            for _ in range(6):
                for _ in range(chance.randrange(1, 12)):
                    change(client, model, chance)
                if chance.random() < 0.3:
                    sides[writer].engine.snapshot("volume", f"{step}-{chance.random()}")
                client.flush()
                compare(reader, model, chance)
        client.close()
        if step % 2:
            sides[1 - writer].promote(other.id)
        client, writer = connected(other), 1 - writer
        compare(client, model, chance)
        change(client, model, chance)
        compare(client, model, chance)
    client.close()
    assert "worker.fenced" not in kinds(alpha)


def change(client, model, chance):
    offset = chance.randrange(len(model) - 1)
    length = min(chance.choice((1, 100, 512, 4096, 30000)), len(model) - offset)
    kind = chance.random()
    if kind < 0.7:
        data = chance.randbytes(length)
        client.write(offset, data)
        model[offset : offset + length] = data
    else:
        client.zero(offset, length)
        model[offset : offset + length] = bytes(length)


def compare(client, model, chance):
    assert bytes(client.read(0, len(model))) == model
    offset = chance.randrange(len(model) - 600)
    assert bytes(client.read(offset, 600)) == model[offset : offset + 600]
