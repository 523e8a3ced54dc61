# SPDX-License-Identifier: Apache-2.0
"""``ministack demo`` and ``ministack compare``: the story, and what it cost on both storages side by side."""

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from devstack.ministack.demo.meter import Step
from devstack.ministack.demo.story import Story
from devstack.ministack.place import CHECKOUT, Place
from devstack.ministack.processes import call
from devstack.ministack.stack import Stack

RECORD = Path(__file__).parent.parent / "compare.json"
PAGE = CHECKOUT / "doc" / "source" / "reference" / "compare.rst"
SIZE, SERVERS = 512, 20
"""MiB of random bytes in the image, and servers made at once: what the record is measured with"""
_MIB = 1 << 20
_NAMES = {"fisk": "Fisk", "stock": "Ceph RBD"}
_HEAD = """\
.. Written by ``ministack compare``; do not edit.

Beside the stock drivers
========================

The same story on the same machine, with the same services: once with Fisk's drivers, once with those that
come with OpenStack, on Ceph RBD (one OSD, one copy, on the same file system).  Seconds until the cloud says
that a step is done, and MiB the kernel wrote to the disks meanwhile, with the databases and logs of all
services: compare with the row of nothing.  To measure again::

    devstack/ministack/ministack compare

"""


def demo(stack: Stack, size: int, servers: int) -> None:
    """Tell the story and print what it cost, beside what was recorded; raises MinistackError."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    lenient = stack.place.backend == "stock"  # it refuses to delete images that something was made of
    steps = _tell(
        stack, lambda text: console.print(text, markup=False, soft_wrap=True), size, servers, lenient=lenient
    )
    recorded = json.loads(RECORD.read_text())["stock"] if RECORD.exists() else []
    console.print(table(steps, recorded))
    if recorded and (size, servers) != (SIZE, SERVERS):
        console.print(f"Recorded with {SIZE} MiB and {SERVERS} servers, this run had {size} and {servers}.")


def compare(places: Sequence[Place], say: Callable[[str], None], size: int, servers: int) -> None:
    """Measure the storages one after the other and write the record and the page of the manual.

    Clouds that run are stopped.  Raises MinistackError.
    """
    found: dict[str, Any] = {"machine": machine(), "image": f"{size} MiB", "servers": servers}
    for place in places:
        Stack(place, say).down()
    # A process for each: the openstack command keeps its clients, with the first cloud's token, in a class.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        for place in places:
            steps = alone.submit(_measured, place, say, size, servers).result()
            found[place.backend] = [asdict(step) for step in steps]
    RECORD.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(found))
    say(f"written: {RECORD} and {PAGE}")


def _measured(place: Place, say: Callable[[str], None], size: int, servers: int) -> list[Step]:
    stack = Stack(place, say)
    try:
        stack.up()
        return _tell(stack, say, size, servers, lenient=True)
    finally:
        stack.down()


def _tell(
    stack: Stack, say: Callable[[str], None], size: int, servers: int, *, lenient: bool = False
) -> list[Step]:
    return Story(stack.place, say, size=size * _MIB, servers=servers, lenient=lenient).tell()


def table(steps: Sequence[Step], recorded: Sequence[Mapping[str, Any]]) -> Table:
    """Give the closing table; ``recorded`` are the steps of the other storage."""
    others = {step["key"]: step for step in recorded}
    found = Table("step")
    for heading in ("seconds", "MiB written", f"{_NAMES['stock']}: seconds", "MiB written"):
        found.add_column(heading, justify="right")
    for step in steps:
        found.add_row(step.title, *_cells(asdict(step)), *_cells(others.get(step.key)))
    return found


def _cells(step: Mapping[str, Any] | None) -> tuple[str, str]:
    if step is None:
        return "", ""
    if step["refused"]:
        return "refused", ""
    return f"{step['seconds']:.1f}", f"{step['written'] / _MIB:.1f}"


def page(found: Mapping[str, Any]) -> str:
    """Give the record as a page of the manual."""
    lines = [
        _HEAD,
        f"Image: {found['image']} of random bytes, and a system to boot.  {found['machine']}.\n\n",
    ]
    headings = ["step", *(f"{name}, {unit}" for name in _NAMES.values() for unit in ("s", "MiB"))]
    lines += [".. list-table::\n   :header-rows: 1\n\n", *_row(headings)]
    others = {step["key"]: step for step in found["stock"]}
    for step in found["fisk"]:
        lines += _row([step["title"], *_cells(step), *_cells(others.get(step["key"]))])
    for backend, name in _NAMES.items():
        refused = [step for step in found[backend] if step["refused"]]
        if refused:
            lines.append(f"\nRefused by {name}:\n\n")
            lines += [f"* {step['title']}: {_escaped(step['refused'])}\n" for step in refused]
    return "".join(lines)


def _row(cells: Sequence[str]) -> list[str]:
    first, *rest = cells
    return [f"   * - {first}\n", *(f"     - {cell}\n" for cell in rest)]


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\*`_|" else letter for letter in text)


def machine() -> str:
    """Give what the figures depend on: processor, kernel, versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    named = [f"{name} {version(name)}" for name in ("cinder", "nova", "glance", "fisk")]
    ceph = call(["ceph", "--version"]).split()[2]
    return (
        f"{len(models)} processors {models[0]}, Linux {platform.release()}, {', '.join(named)}, Ceph {ceph}"
    )
