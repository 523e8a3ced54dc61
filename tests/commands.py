# SPDX-License-Identifier: Apache-2.0
"""The ``fisk`` command as people run it: a process, its exit status, what it says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fisk_core.engine import Engine
from fisk_core.errors import FiskError

SECONDS = 60


class Command:
    """Runs ``fisk`` on one home directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.program: tuple[str, ...] = (sys.executable, "-m", "fisk_core.cli.shell")
        self.environment = {**os.environ, "FISK_HOME": str(home), "PYTHONWARNINGS": "error"}

    def run(self, *words: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
        options = {"stdin": subprocess.DEVNULL, "text": True, "timeout": SECONDS, **options}
        if "input" in options:
            del options["stdin"]
        if "stdout" not in options:
            options["stdout"] = subprocess.PIPE
        return subprocess.run(
            [*self.program, *map(str, words)], stderr=subprocess.PIPE, env=self.environment, **options
        )

    def __call__(self, *words: str | Path, **options: Any) -> str:
        """Give what it prints; it must succeed and have nothing to complain about."""
        done = self.run(*words, **options)
        assert (done.returncode, done.stderr) == (0, ""), (words, done.returncode, done.stderr)
        return done.stdout

    def json(self, *words: str | Path) -> Any:
        return json.loads(self(*words, "-f", "json"))

    def fails(self, kind: type[FiskError], *words: str | Path, **options: Any) -> str:
        """Give the one line it complains in; it must end with the status of ``kind`` and print nothing."""
        done = self.run(*words, **options)
        assert done.returncode == kind.exit_status, (words, done.returncode, done.stderr)
        assert not done.stdout, done.stdout
        assert done.stderr.startswith("fisk: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr.removeprefix("fisk: ").strip()

    def misused(self, *words: str | Path) -> str:
        """Give what it says to words that make no sense."""
        done = self.run(*words)
        assert (done.returncode, done.stdout) == (2, ""), (words, done)
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()[-1]

    def start(self, *words: str | Path, **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self.program, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            text=True,
            **options,
        )

    @contextmanager
    def serving(self, *words: str | Path) -> Iterator[str]:
        """Serve a Fisk; gives the URI, and ends the worker, which must end well."""
        process = self.start("serve", *words)
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            _, complaints = process.communicate(timeout=SECONDS)
        assert (process.returncode, complaints) == (0, "")

    def state(self) -> tuple[Any, ...]:
        """Give everything that can be seen to change: Fisks, pools, and the files of the default pool."""
        with Engine.open(self.home) as engine:
            seen = engine.list(), engine.pool_names()
        return (*seen, *files(self.home / "pools"))


def files(folder: Path) -> list[tuple[str, int]]:
    """Give (path, bytes) of every file below a directory."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted((str(path.relative_to(folder)), path.stat().st_size) for path in found)
