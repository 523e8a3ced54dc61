# SPDX-License-Identifier: Apache-2.0
"""Range locks: rules, time, fairness; and against a model, by many threads and processes."""

import os
import random
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fisk_core.catalog.schema import range_locks
from fisk_core.engine import Engine
from fisk_core.errors import AlreadyExists, InUse, InvalidValue, LimitExceeded, NotFound
from fisk_core.model import MAX_SIZE
from fisk_core.services import rangelocks
from tests.engines import MIB

SECONDS = 30.0


@pytest.fixture
def clock(monkeypatch):
    """The catalog's time, moved by hand."""

    class Clock:
        now = datetime(2030, 1, 1)

        def __call__(self, _):
            return self.now

        def forward(self, seconds):
            self.now += timedelta(seconds=seconds)

    made = Clock()
    monkeypatch.setattr(rangelocks, "clock", made)
    return made


@pytest.fixture
def volume(engine):
    return engine.create("volume", MIB).id


def waiting(engine, expires=None):
    with engine.catalog.read() as conn:
        rows = conn.execute(range_locks.select().where(range_locks.c.waiting)).all()
    return [row.id for row in rows if expires in (None, row.expires)]


def until_waiting(engine, count):
    """Return when so many requests stand in the queue."""
    while len(waiting(engine)) < count:
        engine.catalog.changes.wait(engine.catalog.changes.count, 0.01)


# Rules


def test_overlap(engine, volume):
    first = rangelocks.acquire(engine, "volume", 100, 50, owner="a")
    for offset, length in ((100, 50), (149, 1), (0, 101), (0, 1000), (120, 1)):
        with pytest.raises(InUse, match=f"bytes 100 to 150 are locked by 'a' \\({first.id}\\)"):
            rangelocks.acquire(engine, "volume", offset, length)
    for offset, length in ((0, 100), (150, MAX_SIZE - 150)):
        rangelocks.acquire(engine, "volume", offset, length)
    assert [lock.offset for lock in rangelocks.held(engine, "volume")] == [0, 100, 150]


def test_shared_locks_share(engine, volume):
    for _ in range(2):
        lock = rangelocks.acquire(engine, "volume", 0, 10, shared=True)
    with pytest.raises(InUse):
        rangelocks.acquire(engine, "volume", 5, 1)
    rangelocks.release(engine, lock.id)
    with pytest.raises(InUse):
        rangelocks.acquire(engine, "volume", 5, 1)


def test_fisks_do_not_share_locks(engine, volume):
    engine.create("other", MIB)
    rangelocks.acquire(engine, "volume", 0, 10)
    assert rangelocks.acquire(engine, "other", 0, 10).fisk_id != volume


def test_release_is_repeatable(engine, volume):
    lock = rangelocks.acquire(engine, "volume", 0, 10)
    for _ in range(2):
        rangelocks.release(engine, lock.id)
    assert rangelocks.held(engine, "volume") == []


def test_the_same_id_is_the_same_lock(engine, volume, clock):
    lock_id = str(uuid.uuid4())
    first = rangelocks.acquire(engine, "volume", 0, 10, owner="a", id=lock_id)
    clock.forward(5)
    again = rangelocks.acquire(engine, "volume", 0, 10, owner="a", id=lock_id.upper())
    assert again.expires - first.expires == timedelta(seconds=5)
    for change in ({"shared": True}, {"owner": "b"}):
        with pytest.raises(AlreadyExists):
            rangelocks.acquire(engine, "volume", 0, 10, **{"owner": "a", "id": lock_id, **change})


@pytest.mark.parametrize(
    ("offset", "length", "options"),
    [
        (-1, 10, {}),
        (0, 0, {}),
        (MAX_SIZE, 1, {}),
        (0, 1, {"ttl": 0}),
        (0, 1, {"ttl": 3601}),
        (0, 1, {"wait": -1}),
        (0, 1, {"wait": 601}),
        (0, 1, {"id": "x"}),
    ],
)
def test_what_makes_no_sense(engine, volume, offset, length, options):
    with pytest.raises(InvalidValue):
        rangelocks.acquire(engine, "volume", offset, length, **options)


def test_limits(engine, volume, monkeypatch):
    monkeypatch.setattr(rangelocks, "MAX_LOCKS", 2)
    for offset in range(2):
        rangelocks.acquire(engine, "volume", offset, 1)
    with pytest.raises(LimitExceeded, match="2 range locks"):
        rangelocks.acquire(engine, "volume", 9, 1)
    with pytest.raises(LimitExceeded):
        rangelocks.acquire(engine, "volume", 9, 1, owner="x" * 256)


def test_unknown_fisk(engine):
    with pytest.raises(NotFound):
        rangelocks.acquire(engine, "nobody", 0, 1)
    with pytest.raises(NotFound):
        rangelocks.held(engine, "nobody")


# Time


def test_a_lock_expires(engine, volume, clock):
    lock = rangelocks.acquire(engine, "volume", 0, 10, ttl=5)
    assert lock.expires == clock.now.replace(tzinfo=UTC) + timedelta(seconds=5)
    clock.forward(4.999)
    with pytest.raises(InUse):
        rangelocks.acquire(engine, "volume", 0, 10)
    clock.forward(0.001)
    assert rangelocks.held(engine, "volume") == []
    rangelocks.acquire(engine, "volume", 0, 10)


def test_a_renewed_lock_lasts(engine, volume, clock):
    lock = rangelocks.acquire(engine, "volume", 0, 10, ttl=5)
    clock.forward(4)
    assert rangelocks.renew(engine, lock.id, 5).expires == lock.expires + timedelta(seconds=4)
    clock.forward(4)
    assert [each.id for each in rangelocks.held(engine, "volume")] == [lock.id]


def test_an_expired_lock_is_not_renewed(engine, volume, clock):
    """Somebody else may have had it meanwhile and be gone again."""
    lock = rangelocks.acquire(engine, "volume", 0, 10, ttl=5)
    clock.forward(5)
    for lock_id in (lock.id, str(uuid.uuid4())):
        with pytest.raises(NotFound):
            rangelocks.renew(engine, lock_id)


def test_locks_go_with_their_fisk(engine, volume):
    lock = rangelocks.acquire(engine, "volume", 0, 10)
    engine.delete("volume")
    with pytest.raises(NotFound):
        rangelocks.renew(engine, lock.id)


# Waiting


def test_waiting_in_vain(engine, volume):
    rangelocks.acquire(engine, "volume", 0, 10, owner="a")
    with pytest.raises(InUse, match="by 'a'"):
        rangelocks.acquire(engine, "volume", 0, 10, wait=0.05)
    assert waiting(engine) == []


def test_waiting_for_a_release(engine, volume):
    lock = rangelocks.acquire(engine, "volume", 0, 10)
    with ThreadPoolExecutor() as threads:
        waiter = threads.submit(rangelocks.acquire, engine, "volume", 5, 10, wait=SECONDS)
        until_waiting(engine, 1)
        assert [each.id for each in rangelocks.held(engine, "volume")] == [lock.id]
        rangelocks.release(engine, lock.id)
        assert waiter.result(SECONDS).offset == 5


def test_a_waiting_exclusive_lock_is_not_starved(engine, volume):
    first = rangelocks.acquire(engine, "volume", 0, 10, shared=True)
    with ThreadPoolExecutor() as threads:
        exclusive = threads.submit(rangelocks.acquire, engine, "volume", 0, 10, owner="x", wait=SECONDS)
        until_waiting(engine, 1)
        with pytest.raises(InUse, match="wanted earlier by 'x'"):
            rangelocks.acquire(engine, "volume", 0, 10, shared=True)
        rangelocks.acquire(engine, "volume", 10, 10, shared=True)  # not in its way
        late = threads.submit(rangelocks.acquire, engine, "volume", 0, 10, shared=True, wait=SECONDS)
        until_waiting(engine, 2)
        rangelocks.release(engine, first.id)
        got = exclusive.result(SECONDS)
        assert len(waiting(engine)) == 1
        rangelocks.release(engine, got.id)
        assert late.result(SECONDS).shared


def test_a_dead_waiter_is_passed_over(engine, volume, clock):
    first = rangelocks.acquire(engine, "volume", 0, 10, shared=True, ttl=3000)
    wanted = rangelocks.RangeLock(str(uuid.uuid4()), volume, 0, 10, False, "dead", first.expires)
    assert rangelocks._ask(engine, wanted, 5, queue=True) is None
    with pytest.raises(InUse, match="wanted earlier by 'dead'"):
        rangelocks.acquire(engine, "volume", 0, 10, shared=True)
    clock.forward(rangelocks.WAITING_SECONDS)
    assert rangelocks.acquire(engine, "volume", 0, 10, shared=True).shared


def test_a_live_waiter_keeps_its_place(engine, volume, clock, monkeypatch):
    monkeypatch.setattr(rangelocks, "_RENEW_SECONDS", 0.0)
    lock = rangelocks.acquire(engine, "volume", 0, 10, ttl=3000)
    with ThreadPoolExecutor() as threads:
        waiter = threads.submit(rangelocks.acquire, engine, "volume", 0, 10, wait=SECONDS)
        until_waiting(engine, 1)
        (mine,) = waiting(engine)
        for _ in range(5):
            clock.forward(rangelocks.WAITING_SECONDS / 2)
            alive = clock.now + timedelta(seconds=rangelocks.WAITING_SECONDS)
            while waiting(engine, expires=alive) != [mine]:
                engine.catalog.changes.wait(engine.catalog.changes.count, 0.01)
        rangelocks.release(engine, lock.id)
        assert waiter.result(SECONDS)


def test_a_request_can_be_withdrawn(engine, volume):
    rangelocks.acquire(engine, "volume", 0, 10)
    lock_id = str(uuid.uuid4())
    with ThreadPoolExecutor() as threads:
        waiter = threads.submit(rangelocks.acquire, engine, "volume", 0, 10, wait=SECONDS, id=lock_id)
        until_waiting(engine, 1)
        rangelocks.release(engine, lock_id)
        with pytest.raises(InUse, match="withdrawn"):
            waiter.result(SECONDS)


def test_the_fisk_goes_while_a_request_waits(engine, volume):
    rangelocks.acquire(engine, "volume", 0, 10)
    with ThreadPoolExecutor() as threads:
        waiter = threads.submit(rangelocks.acquire, engine, "volume", 0, 10, wait=SECONDS)
        until_waiting(engine, 1)
        engine.delete("volume")
        with pytest.raises(NotFound):
            waiter.result(SECONDS)


# Against a model


class LockMachine(RuleBasedStateMachine):
    """One caller, no waiting: the locks of a model are those of the catalog, at every moment."""

    template: Engine

    @initialize()
    def begin(self):
        self.engine, self.now = self.template, datetime(2030, 1, 1)
        self.name = f"v{uuid.uuid4().hex}"
        self.engine.create(self.name, MIB)
        self.model = {}
        rangelocks.clock = lambda _: self.now

    def living(self):
        return {key: lock for key, lock in self.model.items() if lock[3] > self.now}

    @rule(offset=st.integers(0, 12), length=st.integers(1, 6), shared=st.booleans(), ttl=st.integers(1, 9))
    def acquire(self, offset, length, shared, ttl):
        in_the_way = any(
            start < offset + length and offset < start + count and not (shared and also_shared)
            for start, count, also_shared, _ in self.living().values()
        )
        if in_the_way:
            with pytest.raises(InUse):
                rangelocks.acquire(self.engine, self.name, offset, length, shared=shared, ttl=ttl)
            return
        lock = rangelocks.acquire(self.engine, self.name, offset, length, shared=shared, ttl=ttl)
        self.model[lock.id] = (offset, length, shared, self.now + timedelta(seconds=ttl))

    @rule(data=st.data(), ttl=st.integers(1, 9))
    def renew(self, data, ttl):
        if not self.model:
            return
        key = list(self.model)[data.draw(st.integers(0, len(self.model) - 1))]
        if key not in self.living():
            with pytest.raises(NotFound):
                rangelocks.renew(self.engine, key, ttl)
            return
        rangelocks.renew(self.engine, key, ttl)
        self.model[key] = (*self.model[key][:3], self.now + timedelta(seconds=ttl))

    @rule(data=st.data())
    def release(self, data):
        if self.model:
            key = list(self.model)[data.draw(st.integers(0, len(self.model) - 1))]
            rangelocks.release(self.engine, key)
            del self.model[key]

    @rule(seconds=st.integers(1, 5))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)

    @invariant()
    def the_same(self):
        if not hasattr(self, "model"):
            return
        held = {
            lock.id: (lock.offset, lock.length, lock.shared, lock.expires.replace(tzinfo=None))
            for lock in rangelocks.held(self.engine, self.name)
        }
        assert held == self.living()


def test_against_a_model(engine, monkeypatch):
    monkeypatch.setattr(rangelocks, "clock", rangelocks.clock)  # put back afterwards what the machine sets
    machine = type("Machine", (LockMachine,), {"template": engine})
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=checks,
            database=None,
        ),
    )


# Many at once

CELLS = 8


class Board:
    """Who is where, in a file that all map: a cell is 0, the number of readers, or WRITER."""

    WRITER = 255

    def __init__(self, path: Path) -> None:
        import mmap

        with path.open("r+b") as file:
            self.cells = mmap.mmap(file.fileno(), CELLS)

    def enter(self, first, count, shared):
        for cell in range(first, first + count):
            if shared:
                assert self.cells[cell] < self.WRITER
            else:
                assert self.cells[cell] == 0
                self.cells[cell] = self.WRITER

    def leave(self, first, count, shared):
        for cell in range(first, first + count):
            if not shared:
                assert self.cells[cell] == self.WRITER
                self.cells[cell] = 0


def _contend(engine, board, seed, turns):
    dice = random.Random(seed)
    for _ in range(turns):
        first = dice.randrange(CELLS)
        place = (first, dice.randint(1, CELLS - first), dice.random() < 0.5)
        lock = rangelocks.acquire(
            engine, "volume", place[0], place[1], shared=place[2], owner=str(seed), ttl=60, wait=60
        )
        board.enter(*place)
        os.sched_yield()
        board.leave(*place)
        rangelocks.release(engine, lock.id)


def process(home, path, seed):
    """What one of several processes does."""
    with Engine.open(Path(home)) as engine:
        board = Board(Path(path))
        _contend_in_threads(engine, board, int(seed))
        board.cells.close()


def _contend_in_threads(engine, board, seed):
    with ThreadPoolExecutor(3) as threads:
        for each in [threads.submit(_contend, engine, board, seed + number, 10) for number in range(3)]:
            each.result()


def test_threads_and_processes_exclude_each_other(engine, volume, tmp_path):
    path = tmp_path / "board"
    path.write_bytes(bytes(CELLS))
    script = "import sys; from tests.unit import test_rangelocks; test_rangelocks.process(*sys.argv[1:])"
    command = [sys.executable, "-c", script, str(engine.home.path), str(path)]
    processes = [subprocess.Popen([*command, str(100 * number)]) for number in (1, 2)]
    board = Board(path)
    _contend_in_threads(engine, board, 0)
    assert [process.wait() for process in processes] == [0, 0]
    assert bytes(board.cells) == bytes(CELLS)
    board.cells.close()
    assert rangelocks.held(engine, "volume") == waiting(engine) == []
