# SPDX-License-Identifier: Apache-2.0
"""What the demonstration rests on: failures become one line, and no process outlives it."""

import signal
from pathlib import Path

import pytest

from demo.run import DemoFailed, Processes, call, expect, wait_for

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


def test_failure_names_command_status_and_last_line() -> None:
    with pytest.raises(DemoFailed, match=r"^`sh -c .*` failed \(3\): the reason$"):
        call(["sh", "-c", "echo noise >&2; echo the reason >&2; exit 3"])


def test_missing_program_is_named() -> None:
    with pytest.raises(DemoFailed, match="no-such-program is not installed"):
        call(["no-such-program"])


def test_command_that_hangs_is_ended() -> None:
    with pytest.raises(DemoFailed, match="did not end within"):
        call(["sleep", "60"], timeout=0.1)


def test_wait_for_gives_up() -> None:
    with pytest.raises(DemoFailed, match="the moon: nothing within 0 s"):
        wait_for(lambda: None, "the moon", 0.05)


def test_false_is_an_answer_and_none_is_not() -> None:
    answers = iter([None, None, False])
    assert wait_for(lambda: next(answers), "an answer", 5) is False


def test_expect() -> None:
    expect(True, "never said")
    with pytest.raises(DemoFailed, match=r"^said$"):
        expect(False, "said")


def test_processes_end_when_the_block_fails(tmp_path: Path) -> None:
    started = []

    def fail_half_way() -> None:
        with Processes() as processes:
            started.extend(processes.start(["sleep", "60"], log=tmp_path / f"{n}.log") for n in range(2))
            expect(False, "half way")

    with pytest.raises(DemoFailed):
        fail_half_way()
    assert [process.poll() for process in started] == [-signal.SIGTERM] * 2


def test_stop_insists(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Processes() as processes:
        process = processes.start(["sh", "-c", STUBBORN], log=log)
        wait_for(lambda: True if "ready" in log.read_text() else None, "the process is ready", 10)
        assert processes.stop(process, timeout=0.2) == -signal.SIGKILL
