# SPDX-License-Identifier: Apache-2.0
"""Two hosts that share a catalog and a lock directory, played by two homes of one machine."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fisk_core.engine import Engine
from fisk_core.services import events
from fisk_core.supervision import Supervisor
from tests.supervisors import configure, supervising

Host = tuple[Engine, Supervisor]


def configure_hosts(home: Path, *, fence_seconds: float = 10, listen: str = "") -> tuple[Path, Path]:
    """Give the homes of alpha and beta, below ``home``."""
    shared = f"lock_path = {home}/locks\n[catalog]\nconnection = sqlite:///{home}/c.sqlite\n"
    for name in ("alpha", "beta"):
        text = f"host = {name}\n{shared}[workers]\nfence_seconds = {fence_seconds}\n"
        configure(home / name, text, listen=listen)
    return home / "alpha", home / "beta"


@contextmanager
def two_hosts(homes: tuple[Path, Path]) -> Iterator[tuple[Host, Host]]:
    """Give both hosts' (engine, supervisor)."""
    with ExitStack() as stack:
        found = []
        for path in homes:
            engine = stack.enter_context(Engine.open(path))
            found.append((engine, stack.enter_context(supervising(engine))))
        yield found[0], found[1]


def kinds(engine: Engine) -> list[str]:
    """Give the kinds of what happened."""
    return [each.kind for each in events.read(engine, 0)]


def space_taken(engine: Engine) -> int:
    """Give the bytes that the layers below a home take."""
    layers = [path for path in engine.home.path.glob("pools/*/layers/**/*") if path.is_file()]
    assert layers
    return sum(path.stat().st_blocks * 512 for path in layers)


def left_to_its_host(owner: Engine, other: Engine, snapshot: str, least: int) -> str:
    """Delete a snapshot of what ``owner`` serves: it alone reclaims, ``least`` bytes or more.

    Gives why ``other`` leaves it alone.
    """
    before = space_taken(owner)
    owner.delete(snapshot)
    owner.settle()  # a map that is not written down yet keeps what is below it
    left = other.collect()
    assert left.reclaimed == 0
    [reason] = left.skipped.values()
    owner.collect()  # what it does in the background may have been quicker
    assert space_taken(owner) < before - least
    return reason
