# SPDX-License-Identifier: Apache-2.0
"""What the ``class`` of a Fisk means to its worker.

``latency``     looks on longer before it sleeps, reads hardly ahead
``throughput``  reads far ahead, and has the kernel do so
``background``  has its turn at the disk and the processor when nobody else wants one
``scratch``     is for data that may be lost: **FLUSH and FUA are answered without making anything durable**

None of them is today's behaviour for everybody else.  What was acknowledged to a ``scratch`` Fisk is durable
after an orderly stop, a snapshot or a change of class, and lost by the end of the worker in any other way.
"""

import contextlib
import errno
import logging
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fisk_core import _linux
from fisk_core.errors import InvalidValue
from fisk_core.model import Class

if TYPE_CHECKING:
    from fisk_core.dataplane.server import Server

LOG = logging.getLogger(__name__)
KEY = "class"
_NICE = 10


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a worker goes about its work."""

    look_on: float = 40e-6
    """seconds to look for the next event before going to sleep"""
    window: tuple[int, int] = (128 << 10, 4 << 20)
    """bytes read ahead of a stream, at first and at most"""
    advice: int = os.POSIX_FADV_RANDOM
    """of the layers: what the kernel reads around what is not cached"""
    yields: bool = False
    """others' work comes first"""
    volatile: bool = False
    """flushes are answered and not carried out"""


USUAL = Conduct()
CONDUCTS: dict[str, Conduct] = {
    Class.LATENCY: Conduct(look_on=250e-6, window=(64 << 10, 128 << 10)),
    Class.THROUGHPUT: Conduct(window=(1 << 20, 16 << 20), advice=os.POSIX_FADV_SEQUENTIAL),
    Class.BACKGROUND: Conduct(look_on=0.0, yields=True),
    Class.SCRATCH: Conduct(volatile=True),
}


def conduct_of(attributes: Mapping[str, str]) -> Conduct:
    """Give the conduct that the attributes of a Fisk ask for; raises InvalidValue for an unknown class."""
    name = attributes.get(KEY)
    if name is None:
        return USUAL
    if name not in CONDUCTS:
        raise InvalidValue(f"'{name}' is not a class (there are: {', '.join(CONDUCTS)})")
    return CONDUCTS[name]


def take_up(server: "Server", conduct: Conduct) -> None:
    """Have the server go about its work so, from now on."""
    old, server.conduct = server.conduct, conduct
    server.loop.look_on = conduct.look_on
    server.cold.windows = conduct.window
    server.disk.layers.advise(conduct.advice)
    if old.yields != conduct.yields:
        _set_priority(conduct.yields)


def _set_priority(low: bool) -> None:
    """Put all threads of this process behind others, or back; threads made later inherit it.

    Without the privilege to come back from it, the nice value is left alone.
    """
    try:
        threads = os.listdir("/proc/self/task")
    except OSError as exc:
        LOG.info("the priority cannot be changed: %s", exc)
        return
    for thread in map(int, threads):
        try:
            _linux.set_io_priority(thread, _linux.IOPRIO_IDLE if low else _linux.IOPRIO_NONE)
        except OSError as exc:
            if exc.errno not in (errno.ESRCH, errno.ENOSYS):  # the thread ended; no such thing here
                LOG.info("the priority of I/O cannot be changed: %s", exc)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            _set_nice(thread, low)


def _set_nice(thread: int, low: bool) -> None:
    """Change by a fixed amount, so that a worker started with some nice value has it again afterwards."""
    now = os.getpriority(os.PRIO_PROCESS, thread)
    if not low:
        os.setpriority(os.PRIO_PROCESS, thread, now - _NICE)
    elif os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20 - now:
        os.setpriority(os.PRIO_PROCESS, thread, now + _NICE)
