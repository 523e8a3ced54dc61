# SPDX-License-Identifier: Apache-2.0
"""The client's parts that need no daemon: what it loads, and how it reads answers."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from fisk_core.client.answers import decode
from fisk_core.client.transport import Patience
from fisk_core.errors import ProtocolError
from fisk_core.model import Attachment, Event, Job, JobState, Retention, Schedule
from fisk_core.reports import CheckReport, Problem, Severity

NOW = "2026-01-02T03:04:05.678901Z"


def test_it_loads_nothing_of_catalog_and_daemon() -> None:
    program = (
        "import sys, fisk_core.client\n"
        "heavy = {'sqlalchemy', 'alembic', 'numpy', 'fastapi', 'pydantic', 'starlette', 'oslo_config'}\n"
        "assert not heavy & {name.partition('.')[0] for name in sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nested_values() -> None:
    told = {
        "id": "1", "fisk_id": "2", "interval": 60, "retention": {"last": 1, "yearly": 5}, "next_run": NOW,
        "created_at": NOW, "expire": None, "prefix": "p",
    }  # fmt: skip
    assert decode(Schedule, told) == Schedule(
        "1", "2", 60, Retention(last=1), datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), "p",
    )  # fmt: skip
    problem = {"severity": "warning", "kind": "leak", "subject": "x", "message": "m", "repaired": True}
    report = decode(CheckReport, {"fisks": 1, "problems": [problem]})
    assert report == CheckReport(1, 0, 0, [Problem(Severity.WARNING, "leak", "x", "m", True)])
    attached = {"id": "1", "fisk_id": "2", "host": "h", "access": "nbd", "read_only": False, "epoch": 3}
    assert decode(Attachment, {**attached, "created_at": NOW, "uris": ["a", "b"]}).uris == ("a", "b")
    job = {"id": "1", "kind": "k", "state": "done", "arguments": {"x": [1]}, "done": 1, "total": None}
    found = decode(Job, {**job, "created_at": NOW, "updated_at": NOW, "host": "h", "result": [1, {"y": 2}]})
    assert (found.state, found.result, found.arguments) == (JobState.DONE, [1, {"y": 2}], {"x": [1]})


@pytest.mark.parametrize(
    "told",
    [None, [], "x", {}, {"num": 1, "kind": "k"}, {"num": 1, "kind": "k", "at": "yesterday"}],
)
def test_answers_that_make_no_sense(told: object) -> None:
    with pytest.raises(ProtocolError, match="not a Event"):
        decode(Event, told)


def test_pauses_grow_to_a_limit_and_are_spread() -> None:
    patience = Patience(shortest=0.1, longest=3.0)
    for tries, most in ((0, 0.1), (3, 0.8), (10, 3.0), (10_000, 3.0)):
        pauses = [patience.pause(tries) for _ in range(200)]
        assert 0 <= min(pauses) < most / 4
        assert most * 3 / 4 < max(pauses) <= most
