# SPDX-License-Identifier: Apache-2.0
"""The event loop: timers, threads, barriers, signals; nobody starves and nothing is forgotten."""

import os
import signal
import threading
import time

import pytest

from fisk_core.dataplane.loop import IN, OUT, Loop


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


def run(loop, seconds=5.0):
    """Run until something sets ``stopping``; fails when that takes too long."""
    failed = []

    def give_up():
        failed.append(True)
        loop.stopping = True

    loop.later(seconds, give_up)
    loop.run()
    loop.stopping = False
    assert not failed


def stop(loop):
    loop.stopping = True


def test_timers_in_their_order(loop):
    seen = []
    loop.later(0.03, lambda: (seen.append("last"), stop(loop)))
    loop.later(0, lambda: seen.append("first"))
    loop.later(0.01, lambda: seen.append("third"))
    loop.later(0, lambda: seen.append("second"))
    run(loop)
    assert seen == ["first", "second", "third", "last"]


def test_what_a_timer_begins_is_done_at_once(loop):
    work, seen = [], []

    def round_():
        if work:
            seen.append(work.pop())
            stop(loop)
        return bool(work)

    loop.rounds.append(round_)
    loop.later(0.01, lambda: work.append("work"))
    started = time.monotonic()
    run(loop)
    assert seen == ["work"]
    assert time.monotonic() - started < 1


def test_timers_and_events_go_on_while_rounds_are_busy(loop):
    read, write = os.pipe()
    seen = []
    loop.rounds.append(lambda: True)
    loop.add(read, IN, lambda _: (seen.append(os.read(read, 10)), loop.later(0.01, lambda: stop(loop))))
    loop.later(0.01, lambda: os.write(write, b"x"))
    run(loop)
    assert seen == [b"x"]
    loop.remove(read)
    os.close(read)
    os.close(write)


def test_events_change_and_end(loop):
    read, write = os.pipe()
    seen = []

    def writable(events):
        seen.append(events)
        loop.change(write, 0)
        loop.later(0.02, lambda: stop(loop))

    loop.add(write, OUT, writable)
    run(loop)
    assert seen == [OUT]
    loop.remove(write)
    os.close(read)
    os.close(write)


def test_a_handler_removed_by_another_of_the_same_round_is_not_called(loop):
    pipes = [os.pipe() for _ in range(2)]
    seen = []

    def on_event(me, other):
        def handler(_):
            seen.append(me)
            loop.remove(me)
            loop.remove(other)
            stop(loop)

        return handler

    one, two = (read for read, _ in pipes)
    loop.add(one, IN, on_event(one, two))
    loop.add(two, IN, on_event(two, one))
    for _, write in pipes:
        os.write(write, b"x")
    run(loop)
    assert len(seen) == 1
    for fd in (fd for pipe in pipes for fd in pipe):
        os.close(fd)


def test_work_on_threads(loop):
    results = []

    def done(result, error):
        assert threading.current_thread() is threading.main_thread()
        results.append((result, error))
        if len(results) == 21:
            stop(loop)

    for number in range(20):
        loop.submit("some", 3, lambda number=number: number * 2, done)
    problem = OSError("no")

    def fail():
        raise problem

    loop.submit("others", 1, fail, done)
    run(loop)
    assert sorted(value for value, error in results if error is None) == [n * 2 for n in range(20)]
    assert [error for _, error in results if error] == [problem]


def test_a_barrier_passes_when_what_was_there_is_done(loop):
    gate, seen = threading.Event(), []
    loop.barrier(lambda: seen.append("nothing runs"))
    assert seen == ["nothing runs"]
    loop.submit("one", 1, gate.wait, lambda *_: seen.append("work"))
    loop.barrier(lambda: (seen.append("barrier"), stop(loop)))
    later = threading.Event()
    loop.submit("two", 1, later.wait, lambda *_: seen.append("later"))
    loop.later(0.02, gate.set)
    run(loop)
    assert seen == ["nothing runs", "work", "barrier"]
    later.set()


def test_closing_finishes_the_work_and_what_it_leads_to():
    loop, seen = Loop(), []

    def first(*_):
        seen.append("first")
        loop.submit("pool", 1, lambda: time.sleep(0.01), lambda *_: seen.append("second"))

    loop.submit("pool", 1, lambda: time.sleep(0.02), first)
    loop.close()
    assert seen == ["first", "second"]


def test_signals_are_handled_on_the_loop_and_harmless_after_it():
    before = signal.getsignal(signal.SIGUSR1)
    loop, seen = Loop(), []
    try:
        loop.stop_on(signal.SIGUSR1, call=lambda: (seen.append(threading.current_thread().name), stop(loop)))
        loop.later(0.01, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        run(loop)
        assert seen == ["MainThread"]
        loop.close()
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        assert len(seen) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
