# SPDX-License-Identifier: Apache-2.0
"""What is put before the command of a process that outlives its service."""

import os
import subprocess
import sys

import pytest

from fisk_core.dataplane import scope


@pytest.fixture
def service(tmp_path, monkeypatch):
    """Be a service of systemd, with a systemd-run that says what it was given and then becomes it."""
    program = tmp_path / "systemd-run"
    program.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do echo "$1"; shift; done\nexec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(scope, "_BOOTED", tmp_path)


def test_by_hand_nothing_is_needed(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert scope.prefix() == []


def test_nor_where_systemd_is_not_the_init(service, monkeypatch, tmp_path):
    monkeypatch.setattr(scope, "_BOOTED", tmp_path / "absent")
    assert scope.prefix() == []


def test_a_service_puts_them_into_a_scope_under_the_same_process_id(service):
    code = "import os; print(os.getpid(), 'NOTIFY_SOCKET' in os.environ)"
    words = [*scope.prefix(), sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=scope.environment()) as process:
        said, _ = process.communicate()
    *given, last = said.splitlines()
    assert "--scope" in given
    assert f"--slice={scope.SLICE}" in given
    assert last == f"{process.pid} False"
