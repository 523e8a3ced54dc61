# SPDX-License-Identifier: Apache-2.0
"""The programs people type, on the running cloud."""

import json
import os
import subprocess
from typing import Any

from tests.openstack.cloud import PLACE, daemon_url, environment

_BIN = PLACE.parent / "venv" / "bin"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``fisk …`` or ``openstack …`` as ``admin`` of the cloud."""
    program, *rest = words
    return subprocess.run(
        [_BIN / program, *rest],
        env={**os.environ, **environment(), "FISK_URL": daemon_url()},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def told(*words: str) -> Any:
    """Give what a command answers, as a program reads it."""
    done = run(*words, "-f", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
