# SPDX-License-Identifier: Apache-2.0
"""Plays scenarios, each in a process of its own, several at a time; a play that does not end is ended."""

import gc
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import NamedTuple

from proof.faults import interrupts
from proof.faults.injector import Fault, Injector, Meeting, Site, explain
from proof.faults.scenarios import Scenario
from proof.faults.stage import Stage, descriptors

PATIENCE = 40.0
"""seconds after which a play hangs, however busy the machine is"""


class Task(NamedTuple):
    """One play: of which scenario, and what is to go wrong."""

    scenario: str
    fault: Fault | None = None

    def __str__(self) -> str:
        return f"'{self.scenario}', {self.fault or 'nothing failing'}"


@dataclass
class Outcome:
    """How a play ended."""

    task: Task
    problems: list[str] = field(default_factory=list)
    met: bool = False
    failures: int = 0
    trace: list[Meeting] = field(default_factory=list)
    failed: set[Site] = field(default_factory=set)
    """where calls were made to fail"""
    counts: dict[str, int] = field(default_factory=dict)
    """what a scenario counted besides"""


class Player:
    """Plays one task after the other below a directory of its own; what is there before is kept."""

    def __init__(self, directory: Path, scenarios: dict[str, Scenario]) -> None:
        self._directory, self._scenarios = directory, scenarios
        self._base = directory / "b"
        self._stages: dict[str, Stage] = {}
        directory.mkdir()

    def play(self, task: Task) -> Outcome:
        scenario = self._scenarios[task.scenario]
        stage = self._stages.get(scenario.name) or self._prepare(scenario)
        _copy_tree(self._kept(scenario), self._base)
        try:
            return _in_child(task, lambda: _play(scenario, stage, task))
        finally:
            shutil.rmtree(self._base)

    def _prepare(self, scenario: Scenario) -> Stage:
        """Make what is there before; where it is played, for the catalog knows the paths of pools."""
        stage = self._stages[scenario.name] = Stage(self._base)
        stage.files.mkdir(parents=True)
        scenario.prepare(stage)
        assert not stage.problems, stage.problems
        self._base.rename(self._kept(scenario))
        return stage

    def _kept(self, scenario: Scenario) -> Path:
        return self._directory / f"t{list(self._scenarios).index(scenario.name)}"


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, copy_function=_copy_file)


def _copy_file(source: str, target: str) -> None:
    """Copy what is not a hole."""
    with open(source, "rb", buffering=0) as old, open(target, "wb", buffering=0) as new:
        size, end = os.fstat(old.fileno()).st_size, 0
        os.ftruncate(new.fileno(), size)
        shutil.copymode(source, target)
        while end < size:
            try:
                start = os.lseek(old.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            os.pwrite(new.fileno(), os.pread(old.fileno(), end - start, start), start)


def _in_child(task: Task, call: Callable[[], Outcome]) -> Outcome:
    """Call in a child process; one that says nothing in time, or ends without a word, is a problem."""
    source, sink = Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        source.close()
        os.setpgid(0, 0)
        _speak(sink, task, call)
    sink.close()
    try:
        if not source.poll(PATIENCE):
            return Outcome(task, [f"nothing happened any more within {PATIENCE:g} s"])
        outcome: Outcome = source.recv()
        return outcome
    except EOFError:
        return Outcome(task, ["the process ended without a word"])
    finally:
        source.close()
        with suppress(ProcessLookupError):  # it has no group yet, or it and what it started are gone
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _speak(sink: Connection, task: Task, call: Callable[[], Outcome]) -> None:
    """Do it, in the child, and end."""
    try:
        try:
            outcome = call()
        except Exception as exc:  # to be told as whatever it is
            outcome = Outcome(task, [f"the play itself failed: {explain(exc)}"])
        sink.send(outcome)
    finally:
        os._exit(0)


def _play(scenario: Scenario, stage: Stage, task: Task) -> Outcome:
    injector = stage.injector = Injector(task.fault)
    if not scenario.forks:
        interrupts.supervise(injector.answer)
        injector.install()
    before = descriptors()
    scenario.play(stage)
    injector.active = False
    _compare_descriptors(stage, before, "the play")
    met, trace = injector.met, injector.trace
    stage.verify()
    _compare_descriptors(stage, before, "looking at what it left")
    problems = stage.problems + injector.problems
    return Outcome(
        task,
        problems,
        met,
        stage.failures,
        trace if task.fault is None else [],
        injector.failed,
        stage.counts,
    )


def _compare_descriptors(stage: Stage, before: dict[str, int], what: str) -> None:
    now = descriptors()
    if now != before:
        gc.collect()  # generators that an error left half-way close what they hold when they go
        now = descriptors()
    for path in sorted(set(now) | set(before)):
        if now.get(path, 0) > before.get(path, 0):
            stage.blame(f"{what} left {path} open")


# Several at a time


def play_all(
    directory: Path, scenarios: dict[str, Scenario], tasks: Sequence[Task], processes: int, deadline: float
) -> Iterator[Outcome]:
    """Play the tasks, in about this order, until ``deadline``; gives how each ended that was begun."""
    players = [
        _start_player(directory / f"p{number}", scenarios, tasks[number::processes], deadline)
        for number in range(processes)
    ]
    sources = [source for source, _ in players]
    try:
        while sources:
            for source in wait(sources):
                assert isinstance(source, Connection)
                try:
                    yield source.recv()
                except EOFError:
                    source.close()
                    sources.remove(source)
    finally:
        for source, child in players:
            if source in sources:
                os.kill(child, signal.SIGTERM)
                source.close()
            os.waitpid(child, 0)
        for number in range(processes):
            shutil.rmtree(directory / f"p{number}", ignore_errors=True)


def _start_player(
    directory: Path, scenarios: dict[str, Scenario], tasks: Sequence[Task], deadline: float
) -> tuple[Connection, int]:
    """Start a process that plays these; gives where it tells how each ended, and its id."""
    source, sink = Pipe(duplex=False)
    child = os.fork()
    if child:
        sink.close()
        return source, child
    try:
        source.close()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through the ``finally`` that ends a play
        logging.disable()
        player = Player(directory, scenarios)
        for task in tasks:
            if time.monotonic() > deadline:
                break
            sink.send(player.play(task))
    finally:
        os._exit(0)
