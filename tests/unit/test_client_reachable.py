# SPDX-License-Identifier: Apache-2.0
"""Which way a client takes to a worker."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fisk_core.client.disks import reachable

TCP = "nbd://127.0.0.1:10809/secret"
ASKED = """
import os, sys
from fisk_core.client.disks import reachable
os.setgroups([])
os.setuid(65534)
print(*reachable(sys.argv[1:]))
"""


@pytest.fixture
def unix(home: Path) -> str:
    home.chmod(0o711)
    path = home / "w.nbd"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    path.chmod(0o600)
    return f"nbd+unix:///web?socket={path}"


def test_the_socket_of_this_host_comes_first(unix: str) -> None:
    assert reachable([TCP, unix]) == [unix, TCP]


def test_one_that_is_not_there_is_left_out(home: Path) -> None:
    assert reachable([f"nbd+unix:///web?socket={home}/gone", TCP]) == [TCP]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_users_is_left_out(unix: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKED, unix, TCP], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [TCP]
