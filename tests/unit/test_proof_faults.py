# SPDX-License-Identifier: Apache-2.0
"""The proof of failing calls: it would notice, and some of what it found stays mended."""

import csv
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fisk_core import errors
from fisk_core.blockmap import log
from fisk_core.blockmap.journal import read as read_journal
from fisk_core.dataplane.disk import Disk
from fisk_core.errors import FiskError, PoolError
from proof.faults import sites
from proof.faults.injector import Fault
from proof.faults.run import matching
from proof.faults.running import Player, Task
from proof.faults.scenarios import load
from tests.disks import make_pool, make_spec

SCENARIO = "first writes"
FLUSH = ("pools/file_device.py", "os.fdatasync", "EIO")


@pytest.fixture
def player(tmp_path):
    """Short paths and a file system in memory are not needed here."""
    return Player(tmp_path / "p", load())


def faults_of(player, scenario, *wanted):
    outcome = player.play(Task(scenario))
    assert (outcome.problems, outcome.failures) == ([], 0)
    tasks = [
        Task(scenario, Fault(site, number, kind)) for site, number, kinds in outcome.trace for kind in kinds
    ]
    return matching(tasks, *wanted)


def test_a_failing_flush_is_handled_as_promised(player):
    for task in faults_of(player, SCENARIO, *FLUSH)[:2]:
        outcome = player.play(task)
        assert outcome.met
        assert outcome.problems == []
        assert outcome.failures


def test_a_disk_that_forgets_a_failed_flush_is_noticed(player, monkeypatch):
    task = faults_of(player, SCENARIO, *FLUSH)[0]
    monkeypatch.setattr(Disk, "end_flush", lambda *_: None)
    problems = player.play(task).problems
    assert any("the disk does not say so" in problem for problem in problems), problems


def test_an_error_of_the_interpreter_is_noticed(player, monkeypatch):
    task = faults_of(player, SCENARIO, *FLUSH)[0]
    monkeypatch.setattr(errors, "from_oserror", lambda exc, what: exc)
    problems = player.play(task).problems
    assert any("OSError" in problem for problem in problems), problems


def test_each_finding_is_still_known():
    found = Path(__file__).parents[2] / "proof" / "replays" / "faults" / "found.csv"
    with found.open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = {(site.file, site.call) for site in sites.every()}
    assert {row["scenario"] for row in rows} <= set(load())
    assert {(row["file"], row["call"]) for row in rows} <= known


class Failing:
    """The system's fdatasync, until it fails once."""

    def __init__(self, monkeypatch, after=0):
        self.calls, self._real = 0, os.fdatasync
        self._after = after
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, fd):
        self.calls += 1
        if self.calls == self._after + 1:
            raise OSError(errno.EIO, "failing")
        self._real(fd)


def test_a_batch_of_the_log_that_is_not_durable_is_cut_off(tmp_path, monkeypatch):
    pool = make_pool(tmp_path / "pool")
    spec = make_spec(pool, 1 << 20)
    disk = Disk.open(pool, spec)
    disk.write(0, b"a" * 512)
    disk.flush()
    disk.write(512, b"b" * 512)
    failing = Failing(monkeypatch, after=1)  # the layer's is the first, the log's the second
    with pytest.raises(PoolError):
        disk.flush()
    calls = failing.calls
    with pytest.raises(FiskError):
        disk.period.log.append([log.RECORD.pack(log.LIVE, 1, 1)])
    assert failing.calls == calls
    disk.close()
    with Disk.open(pool, spec) as again:
        assert again.read(0, 1024) == b"a" * 512 + bytes(512)


def test_the_last_flush_empties_the_journal_when_it_fails(tmp_path, monkeypatch):
    pool = make_pool(tmp_path / "pool")
    journal = tmp_path / "journal"
    spec = replace(make_spec(pool, 1 << 20), journal=str(journal))
    disk = Disk.open(pool, spec)
    disk.write(0, b"a" * 512)
    Failing(monkeypatch)
    with pytest.raises(PoolError):
        disk.close()
    assert disk.failed
    with Disk.open(pool, spec) as again:
        assert again.read(0, 512) == bytes(512)


def test_a_journal_is_void_when_its_data_cannot_be_made_durable(tmp_path, monkeypatch):
    pool = make_pool(tmp_path / "pool")
    journal = tmp_path / "journal"
    spec = replace(make_spec(pool, 1 << 20), journal=str(journal))
    disk = Disk.open(pool, spec)
    disk.write(0, b"a" * 512)
    disk.abandon()
    Failing(monkeypatch)
    with pytest.raises(PoolError):
        Disk.open(pool, spec)
    assert not [*read_journal(journal, spec.map_id, spec.epoch)]
    with Disk.open(pool, spec) as again:  # else fsync would be asked once more, and say that all is well
        assert again.read(0, 512) == bytes(512)


def test_a_period_that_cannot_begin_leaves_the_one_before(tmp_path, monkeypatch):
    pool = make_pool(tmp_path / "pool")
    spec = replace(make_spec(pool, 1 << 20), journal=str(tmp_path / "one"))
    following = make_spec(pool, 1 << 20, base=spec.map_id)
    following = replace(following, journal=str(tmp_path / "missing" / "two"))
    with Disk.open(pool, spec) as disk:
        disk.write(0, b"a" * 512)
        with pytest.raises(FiskError):
            disk.begin_period(following)
        disk.write(512, b"b" * 512)
        disk.flush()
    with Disk.open(pool, spec) as again:
        assert again.read(0, 1024) == b"a" * 512 + b"b" * 512
