# SPDX-License-Identifier: Apache-2.0
"""The soak, short, as a proof; ``python -m proof.soak --hours N`` is the long one."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from proof.core import Context, Figure, ProofFailed, proof
from proof.directories import made_directory
from proof.soak.judging import figures, leaked
from proof.soak.soak import SHORT, Pace, Result, Soak

_LOAD = 0.6  # of the time; the rest is for starting, coming to rest and looking
_SHOWN = 10


def attempt(
    seed: int, pace: Pace, seconds: float, say: Callable[[str], None], begun: Callable[[Soak], None]
) -> Result:
    """Run one soak in directories of its own; they stay when anything was wrong."""
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="fs-", dir=memory if memory.is_dir() else None))
    other = made_directory("soak")
    soak = Soak(home / "h", other, seed, pace, say)
    begun(soak)
    try:
        result = soak.run(seconds)
    except BaseException:
        say(f"what there was is in {home} and {other}")
        raise
    if all(figure.met for figure in figures(result)):
        shutil.rmtree(home)
        shutil.rmtree(other)
    else:
        say(f"what there was is in {home} and {other}")
    return result


@proof("soak", "kills and everything else at once; nothing lost, leaked or growing", seconds=50)
def soak(context: Context) -> list[Figure]:
    """Run a short one."""
    result = attempt(context.seed, SHORT, context.seconds * _LOAD, context.say, lambda _: None)
    if result.problems or leaked(result):
        shown = "\n".join(
            [*result.problems[:_SHOWN], *(f"{n} {what} leaked" for what, n in leaked(result).items())]
        )
        raise ProofFailed(f"seed {context.seed}, python -m proof.soak --hours 0.1 shows more:\n{shown}")
    context.say(", ".join(f"{count:,} {what}" for what, count in sorted(result.counts.items())))
    return figures(result)
