# SPDX-License-Identifier: Apache-2.0
"""The report of a run: a table in Markdown, the same as JSON with every sample, and a plot."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.context import Effort
from bench.figures import Figure, show
from bench.processes import MIB, call

_HEAD = "| figure | against | must | measured | spread | medians | |"


def environment(directory: Path, effort: Effort) -> dict[str, str]:
    """Say on what the figures were taken."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * MIB)
    kernel = platform.release().partition("-")[0]
    return {
        "machine": f"{os.cpu_count()} cores, {memory} GiB memory, Linux {kernel}",
        "file system": call(["findmnt", "-n", "-o", "FSTYPE", "-T", str(directory)]).strip(),
        "Python": platform.python_version(),
        "nbdkit": call(["nbdkit", "--version"]).split()[1],
        "qemu-nbd": call(["qemu-nbd", "--version"]).split()[1],
        "fio": call(["fio", "--version"]).strip(),
        "effort": f"{effort.rounds} rounds, {effort.seconds:g} s a load, {effort.size // MIB} MiB files",
    }


def write_report(output: Path, figures: Sequence[Figure], where: dict[str, str]) -> list[Path]:
    """Write all forms of the report into the directory ``output``; gives the files."""
    output.mkdir(parents=True, exist_ok=True)
    table, data = output / "RESULTS.md", output / "results.json"
    table.write_text(_markdown(figures, where))
    data.write_text(
        json.dumps({"environment": where, "figures": [_plain(f) for f in figures]}, indent=1) + "\n"
    )
    return [table, data]


def cells(figure: Figure) -> tuple[str, ...]:
    """Give one line of the table: figure, against, must, measured, spread, medians, verdict."""
    value = figure.value
    return (
        figure.what,
        figure.against,
        str(figure.must) if figure.must else "",
        show(value.main, figure.unit) if value else "",
        f"{show(value.low, figure.unit)} to {show(value.high, figure.unit)}" if value else "",
        "; ".join(filter(None, (figure.detail, figure.note))),
        figure.verdict,
    )


def _markdown(figures: Sequence[Figure], where: dict[str, str]) -> str:
    lines = [
        "# Speed and memory",
        "",
        "Written by `make bench`.  A ratio is the median over rounds of ours : theirs within one round.  The",
        "contestants take turns on the same file system, their files in the page cache unless it says",
        "otherwise, over NBD on a unix socket with fio's own NBD client, which shares the processors with",
        "the server.  qemu-nbd's qcow2 file was made with `preallocation=metadata` and written all over.",
        "The spread, smallest to largest, is that of the ratios (or of single figures).",
        "",
        *(f"- {name}: {text}" for name, text in where.items()),
        "",
        _HEAD,
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(cells(figure))} |" for figure in figures),
        "",
    ]
    return "\n".join(lines)


def _plain(figure: Figure) -> dict[str, object]:
    medians = {name: statistics.median(samples) for name, samples in figure.samples.items()}
    return {**asdict(figure), "verdict": figure.verdict, "medians": medians}
