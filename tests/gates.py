# SPDX-License-Identifier: Apache-2.0
"""Forced interleavings: stop a call at its door, do something else meanwhile, let it go on.

In this process: ``with held(module, "name") as gate``.  The first thread that calls ``module.name`` waits
there; ``gate.wait()`` returns when it does, ``gate.open()`` and the end of the block let it go on.  In the
process of a worker: ``Doors`` gives statements for ``patched_worker`` that do the same through two FIFOs.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 20.0


class Gate:
    """One door; who comes first waits at it, all others pass."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()
        self._first = threading.Lock()

    def stop(self) -> None:
        """Be stopped here, when first."""
        if self._first.acquire(blocking=False):
            self._reached.set()
            assert self._opened.wait(SECONDS), "nobody opened the gate"

    def wait(self) -> None:
        """Return when somebody is stopped."""
        assert self._reached.wait(SECONDS), "nobody came to the gate"

    def open(self) -> None:
        self._opened.set()


@contextmanager
def held(owner: Any, name: str, *, after: bool = False) -> Iterator[Gate]:
    """Stop the first call of ``owner.name`` before it does anything, or ``after`` it has done it."""
    gate, real = Gate(), getattr(owner, name)

    def stopped(*args: Any, **options: Any) -> Any:
        if not after:
            gate.stop()
        result = real(*args, **options)
        if after:
            gate.stop()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, stopped)
        try:
            yield gate
        finally:
            gate.open()


class Doors:
    """A gate in another process: its first call of a method waits there."""

    def __init__(self, folder: Path) -> None:
        self._reached, self._opened = folder / "reached", folder / "opened"
        os.mkfifo(self._reached)
        os.mkfifo(self._opened)

    def before(self, module: str, owner: str, name: str) -> str:
        """Give the statements that make the first call of ``module.owner.name`` wait."""
        return f"""
import {module} as where
real, left = where.{owner}.{name}, [1]
def stopped(*args, **options):
    if left:
        left.pop()
        open({str(self._reached)!r}, "w").close()
        open({str(self._opened)!r}).close()
    return real(*args, **options)
where.{owner}.{name} = stopped
"""

    def after(self, module: str, name: str) -> str:
        """Give the statements that make the first call of the function ``module.name`` wait at its end."""
        return f"""
import {module} as where
real, left = where.{name}, [1]
def stopped(*args, **options):
    result = real(*args, **options)
    if left:
        left.pop()
        open({str(self._reached)!r}, "w").close()
        open({str(self._opened)!r}).close()
    return result
where.{name} = stopped
"""

    def wait(self) -> None:
        """Return when it is stopped."""
        with self._reached.open():
            pass

    def open(self) -> None:
        with self._opened.open("w"):
            pass
