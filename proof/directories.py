# SPDX-License-Identifier: Apache-2.0
"""Directories on the file system of the checkout, for what one in memory does not do or has no room for."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WORK = Path(__file__).resolve().parents[1] / ".work"


def made_directory(prefix: str) -> Path:
    """Make a directory that stays."""
    WORK.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=WORK))


@contextmanager
def disk_directory() -> Iterator[Path]:
    """A directory that goes in the end."""
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="proof-", dir=WORK) as name:
        yield Path(name)
