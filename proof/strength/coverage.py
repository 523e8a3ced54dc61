# SPDX-License-Identifier: Apache-2.0
"""Branch coverage of the modules on which the promises rest, by their quick tests alone.

The files of tests are shared out to as many processes as the proof may use.  A line may be left out of the
count only by ``# pragma: no cover`` with a reason behind it on the same line; so may blocks for type
checkers, which never run.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proof.core import Context, Figure, ProofFailed, exactly, proof
from proof.strength.groups import GROUPS, Group

ROOT = Path(__file__).resolve().parents[2]
_LIMIT_SECONDS = 600
_PRAGMA = re.compile(r"#\s*pragma:\s*no\s*(cover|branch)\b(?P<reason>.*)")
_SETTINGS = """\
[run]
branch = true
parallel = true
data_file = {data}
include = {include}

[report]
exclude_also =
    if TYPE_CHECKING:
"""


@dataclass(frozen=True)
class Excluded:
    """A line that is not counted, and why."""

    place: str
    reason: str


def excluded() -> list[Excluded]:
    """Give the lines of all groups that are left out of the count."""
    found = []
    for group in GROUPS:
        for source in group.sources:
            for number, line in enumerate((ROOT / source).read_text().splitlines(), 1):
                if match := _PRAGMA.search(line):
                    found.append(Excluded(f"{source}:{number}", match["reason"].strip(" :-,")))
    return found


@proof("coverage", "branch coverage of the modules on which the promises rest", seconds=60)
def coverage(context: Context) -> list[Figure]:
    """Run the quick tests under coverage.py; every module must have all its branches taken."""
    settings = context.scratch / "coveragerc"
    include = ",".join(str(ROOT / source) for group in GROUPS for source in group.sources)
    settings.write_text(_SETTINGS.format(data=context.scratch / "data", include=include))
    run_tests(context, settings)
    report = combined(context, settings)
    lines = excluded()
    unexplained = [line.place for line in lines if not line.reason]
    for line in lines:
        context.say(f"not counted: {line.place}: {line.reason or 'no reason'}")
    return [
        *(
            exactly(f"{group.name}: branch coverage", percent(context, report, group), "100 %")
            for group in GROUPS
        ),
        Figure("lines left out of the count, with a reason", len(lines) - len(unexplained)),
        exactly("lines left out of the count, without", len(unexplained), 0),
    ]


def run_tests(context: Context, settings: Path) -> None:
    """Run every file of tests once, the files shared out to processes; raises ProofFailed."""
    files = list(dict.fromkeys(file for group in GROUPS for file in group.files))
    started = []
    for number in range(context.processes):
        share = files[number :: context.processes]
        if share:
            started.append((share, start(context, settings, number, share)))
    for share, process in started:
        try:
            output, _ = process.communicate(timeout=_LIMIT_SECONDS)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise ProofFailed(f"{output}\nsee it again: python -m pytest {' '.join(share)}")


def start(context: Context, settings: Path, number: int, files: list[str]) -> "subprocess.Popen[str]":
    """Start pytest under coverage.py; it leaves nothing in the checkout."""
    base = context.scratch / str(number)
    base.mkdir()
    arguments = [
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        f"--basetemp={base / 't'}",
        f"--hypothesis-seed={context.seed}",
    ]
    environment = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(base / "h"), "TMPDIR": str(base)}
    command = [
        sys.executable,
        "-m",
        "coverage",
        "run",
        f"--rcfile={settings}",
        "-m",
        "pytest",
        *arguments,
        *files,
    ]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def combined(context: Context, settings: Path) -> dict[str, Any]:
    """Give what coverage.py says of each file, of all processes together."""
    result = context.scratch / "coverage.json"
    for verb in (["combine", "-q"], ["json", "-q", "-o", str(result)]):
        command = [sys.executable, "-m", "coverage", verb[0], f"--rcfile={settings}", *verb[1:]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ProofFailed(f"coverage {verb[0]}: {done.stdout}{done.stderr}")
    files: dict[str, Any] = json.loads(result.read_text())["files"]
    return files


def percent(context: Context, report: dict[str, Any], group: Group) -> str:
    """Give the covered part of a group's lines and branches; what is missing is said."""
    covered = total = 0
    for source in group.sources:
        file = report.get(source)
        if file is None:
            context.say(f"{source}: never loaded")
            total += 1
            continue
        summary = file["summary"]
        covered += summary["covered_lines"] + summary["covered_branches"]
        total += summary["num_statements"] + summary["num_branches"]
        if missing := file["missing_lines"]:
            context.say(f"{source}: never run: {', '.join(map(str, missing))}")
        if branches := file["missing_branches"]:
            context.say(f"{source}: never taken: {', '.join(f'{a}->{b}' for a, b in branches)}")
    # Rounded down: what is nearly all must not be shown as all.
    return f"{100 * covered // total} %"
