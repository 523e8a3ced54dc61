# SPDX-License-Identifier: Apache-2.0
"""Mutation of one group of modules by mutmut, in a copy of the checkout below ``.work``.

mutmut writes every mutant of a function beside the original and forks a process for each, which runs the
tests that call the function.  It mutates functions; constants of modules, and functions with decorators other
than ``staticmethod`` and ``classmethod`` (properties, context managers), it leaves alone.

A mutant is *killed* when a test fails or does not end in time; one that no test calls counts as survived.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proof.strength.groups import Group

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("fisk_core", "tests", "setup.cfg", "pyproject.toml", "etc")
_PLUGIN = """\
# What a process that only has to say whether a test fails need not do.
import gc
import os

from hypothesis import Phase, settings

# Failures need not be made smaller, nor be remembered.
phases = [Phase.explicit, Phase.generate]
settings.register_profile("strength", phases=phases, derandomize=True, database=None)
settings.load_profile("strength")
# Most of what is noticed is noticed soon.
usual = settings.__init__


def fewer(self, *words, **named):
    if isinstance(named.get("max_examples"), int):
        named["max_examples"] = min(named["max_examples"], 40)
    usual(self, *words, **named)


settings.__init__ = fewer
# The collector would copy most of the memory that the processes share, several times.
gc.disable()
gc.collect = lambda generation=2: 0


def pytest_configure(config):
    config.option.basetemp = f"{os.environ['TMPDIR']}/{os.getpid()}"
"""
_SETTINGS = """
[mutmut]
source_paths = fisk_core
only_mutate =
{modules}
pytest_add_cli_args =
    -p
    tests.strength_plugin
    -p
    no:cacheprovider
    -p
    pytest_timeout
    -p
    _hypothesis_pytestplugin
    -o
    tmp_path_retention_policy=none
{left_out}
pytest_add_cli_args_test_selection =
{tests}
timeout_multiplier = 8
timeout_constant = 3
use_git_change_detection = false
track_dependencies = false
"""
_PARTS = {2: "*__mutmut_*[13579]", 5: "*__mutmut_*[27]", 10: "*__mutmut_*4"}
"""names of every n-th mutant of a function"""
_SURVIVED = {0: "survived", 5: "no test", 33: "no test"}
_UNKNOWN = {None, 2, 34}
"""not run, interrupted, left out"""


@dataclass
class Score:
    """What became of the mutants of a group; ``survivors`` are mutmut's names of them."""

    group: Group
    counts: Counter[str] = field(default_factory=Counter)
    survivors: list[str] = field(default_factory=list)

    @property
    def percent(self) -> float:
        return 100 * self.counts["killed"] / (self.counts["killed"] + self.counts["survived"] or 1)


def copy(group: Group, directory: Path) -> None:
    """Make the copy that is mutated, or bring the tests of the one that is there up to date."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source, target = ROOT / name, directory / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    left_out = [f"--deselect=tests/{test}" for test in group.slow]
    settings = _SETTINGS.format(
        modules=_lines(group.sources), tests=_lines(group.files), left_out=_lines(left_out)
    )
    with (directory / "setup.cfg").open("a") as file:
        file.write(settings)
    (directory / "tests" / "strength_plugin.py").write_text(_PLUGIN)


def _lines(words: list[str]) -> str:
    return "\n".join(f"    {word}" for word in words)


def run(
    group: Group, directory: Path, processes: int, scratch: Path, *, again: bool = False, part: int = 1
) -> Score:
    """Mutate a group and give the score; raises CalledProcessError when its tests fail without that.

    ``part`` n tries every n-th mutant (2, 5 or 10).  ``again`` tries only those that survived the last time,
    against the tests of now.
    """
    chosen = [_PARTS[part]] if part > 1 else []
    if again:
        chosen = [line.split(" ")[0] for line in score(group, directory).survivors]
    if not again:
        shutil.rmtree(directory, ignore_errors=True)
    copy(group, directory)
    environment = {
        **os.environ,
        "TMPDIR": str(scratch),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "FISK_TEST_PATIENCE": "3",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes), *chosen]
    with (directory / "log").open("w") as log:
        subprocess.run(
            command, cwd=directory, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True
        )
    return score(group, directory)


def score(group: Group, directory: Path) -> Score:
    """Read what became of each mutant."""
    found = Score(group)
    for name, status in _results(group, directory):
        if status in _UNKNOWN:
            found.counts["unknown"] += 1
        elif status in _SURVIVED:
            found.counts["survived"] += 1
            found.survivors.append(f"{name} ({_SURVIVED[status]})")
        else:
            found.counts["killed"] += 1
    return found


def _results(group: Group, directory: Path) -> Iterator[tuple[str, int | None]]:
    for source in group.sources:
        path = directory / "mutants" / f"{source}.meta"
        if path.exists():
            yield from json.loads(path.read_text())["exit_code_by_key"].items()


def difference(name: str, directory: Path) -> str:
    """Give what a mutant changes, as mutmut shows it."""
    command = [sys.executable, "-m", "mutmut", "show", name]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True).stdout
