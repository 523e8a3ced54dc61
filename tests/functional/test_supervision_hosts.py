# SPDX-License-Identifier: Apache-2.0
"""What one of two hosts uses, and what the other one may do then."""

import os
import signal

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import FiskError, InUse
from fisk_core.supervision import keeping
from tests.engines import MIB, make_volume
from tests.hosts import kinds, left_to_its_host
from tests.supervisors import connected, leavings, supervising
from tests.waiting import until


def write_on_and_on(client):
    while True:
        client.write(MIB - 512, b"too late")


def test_a_writer_of_another_host_is_named(homes):
    with Engine.open(homes[0]) as alpha, Engine.open(homes[1]) as beta:
        make_volume(alpha, content=b"content")
        assert alpha.home.lock("x") == beta.home.lock("x")
        assert alpha.home.control("x") != beta.home.control("x")
        with alpha.open_disk("volume", writable=True):
            for use in (
                lambda: beta.acquire("volume", True),
                lambda: beta.acquire("volume", False),
                lambda: beta.snapshot("volume", "snap"),
                lambda: beta.delete("volume"),
            ):
                with pytest.raises(InUse, match=f"alpha:{os.getpid()}"):
                    use()
        with beta.open_disk("volume", writable=True) as disk:
            assert bytes(disk.read(0, 7)) == b"content"


def test_the_second_writer_is_refused(hosts):
    (alpha, one), (beta, two) = hosts
    make_volume(alpha)
    made = one.attach("volume")
    for read_only in (False, True):
        with pytest.raises(InUse, match="alpha"):
            two.attach("volume", read_only=read_only)
    with pytest.raises(InUse, match="alpha"):
        two.detach(made.id)
    with pytest.raises(InUse, match="alpha"):
        beta.delete("volume")
    assert two.attachments() == two.attachments(host="alpha") == [made]
    assert two.attachments(host="beta") == two.workers() == leavings(beta)[1:] == []
    one.detach(made.id)
    with connected(two.attach("volume")) as client:
        client.write(0, b"x")


def test_readers_of_a_frozen_fisk_are_on_all_hosts(hosts):
    (alpha, one), (_, two) = hosts
    make_volume(alpha, content=b"content")
    alpha.snapshot("volume", "image")
    for supervisor in (one, two):
        with connected(supervisor.attach("image", read_only=True)) as client:
            assert bytes(client.read(0, 7)) == b"content"


def test_stealing_fences_the_writer(hosts, expect_logs):
    """Its writes fail from then on, what it had flushed is there, and it has nothing left."""
    expect_logs("another host takes over")
    (alpha, one), (beta, two) = hosts
    fisk = make_volume(alpha)
    lost = one.attach("volume")
    with connected(lost) as client:
        client.write(0, b"flushed")
        client.flush()
        won = two.attach("volume", steal=True)
        with pytest.raises(FiskError):
            write_on_and_on(client)
    assert (won.host, won.epoch) == ("beta", lost.epoch + 1)
    with connected(won) as client:
        assert bytes(client.read(0, 7)) == b"flushed"
        client.write(0, b"beta")
    until(lambda: one.workers() == [] and "worker.fenced" in kinds(alpha))
    assert one.attachments() == [won]
    assert one.attachments(fisk=fisk.id, host="alpha") == []
    one.detach(lost.id)
    with pytest.raises(InUse, match="beta"):
        one.attach("volume")
    two.detach(won.id)
    with connected(one.attach("volume")) as client:
        assert bytes(client.read(0, 7)) == b"betahed"
    beta.check(repair=True)
    assert beta.check().errors == []


def test_stealing_from_a_process_that_does_not_let_go(homes):
    with (homes[1] / "fisk.conf").open("a") as file:
        file.write("[workers]\nfence_seconds = 0.2\n")
    with Engine.open(homes[0]) as alpha, Engine.open(homes[1]) as beta, supervising(beta) as supervisor:
        make_volume(alpha)
        with alpha.open_disk("volume", writable=True) as disk:
            with pytest.raises(InUse, match=f"alpha:{os.getpid()}"):
                supervisor.attach("volume", steal=True)
            disk.write(0, b"still ours")
        assert supervisor.attachments() == []
        with connected(supervisor.attach("volume")) as client:
            assert bytes(client.read(0, 10)) == b"still ours"


def test_what_was_stolen_while_its_worker_was_dead_is_given_up(hosts, expect_logs):
    expect_logs("was taken over by another host|ended")
    (alpha, one), (_, two) = hosts
    make_volume(alpha)
    one.attach("volume")
    [status] = one.workers()
    with one._core.operation(status.fisk_id):  # keeps it from being started again
        os.kill(status.pid, signal.SIGKILL)
        until(lambda: not one.workers())
        with alpha.catalog.change() as conn:
            keeping.leases.take(conn, status.fisk_id, "beta:1")
    until(lambda: one.attachments() == [])
    with connected(two.attach("volume", steal=True)) as client:
        client.write(0, b"x")


def test_what_a_worker_of_another_host_may_be_reading_is_left_to_that_host(hosts):
    (alpha, one), (beta, _) = hosts
    make_volume(alpha, content=bytes(range(1, 256)) * (MIB // 255))
    alpha.snapshot("volume", "snap")
    with connected(one.attach("volume")) as client:
        client.write(0, bytes(MIB // 2))
        client.flush()
        assert "served on alpha" in left_to_its_host(alpha, beta, "snap", MIB // 4)


def test_a_forced_detach_reaches_another_host(hosts, expect_logs):
    expect_logs("another host takes over")
    (alpha, one), (_, two) = hosts
    make_volume(alpha)
    made = one.attach("volume")
    two.detach(made.id, force=True)
    assert two.attachments() == []
    until(lambda: one.workers() == [] and leavings(alpha) == [])
    with connected(two.attach("volume")) as client:
        client.write(0, b"x")
