# SPDX-License-Identifier: Apache-2.0
"""Finding pool drivers, and how little a worker has to load for one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fisk_core import errors
from fisk_core.pools import create_pool, open_pool
from fisk_core.pools.file import FilePool

HEAVY = {
    "dataclasses",
    "importlib.metadata",
    "inspect",
    "logging",
    "numpy",
    "oslo_config",
    "socket",
    "stevedore",
}


def test_driver_is_found_by_its_entry_point(tmp_path: Path) -> None:
    options = {"path": str(tmp_path / "pool")}
    made = create_pool("file", "test", options)
    assert type(made) is FilePool
    found = open_pool({"driver": "file", "name": "test", "options": options})
    assert (type(found), found.id) == (FilePool, made.id)


def test_unknown_driver_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidValue, match=r"'flie' \(known: .*file"):
        create_pool("flie", "test", {"path": str(tmp_path)})
    with pytest.raises(errors.InvalidValue, match="flie"):
        open_pool({"driver": "flie", "name": "test", "options": {}})


@pytest.mark.parametrize(
    "path", ["", "nothing", "no.such.module:Pool", "fisk_core.pools.file:Missing", "os:getpid", "os:PathLike"]
)
def test_class_that_is_no_pool_is_refused(tmp_path: Path, path: str) -> None:
    spec = {"driver": "flie", "class": path, "name": "test", "options": {"path": str(tmp_path)}}
    with pytest.raises(errors.InvalidValue):
        open_pool(spec)


@pytest.mark.parametrize("missing", ["driver", "name", "options"])
def test_incomplete_description_is_refused(missing: str) -> None:
    spec = {"driver": "file", "name": "test", "options": {}}
    del spec[missing]
    with pytest.raises(errors.InvalidValue, match=missing):
        open_pool(spec)


def test_opening_by_spec_loads_nothing_heavy(tmp_path: Path) -> None:
    spec = create_pool("file", "test", {"path": str(tmp_path / "pool")}).spec()
    program = (
        "import json, sys\n"
        "before = set(sys.modules)\n"
        "from fisk_core.pools import open_pool\n"
        "open_pool(json.loads(sys.argv[1]))\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    found = subprocess.run([sys.executable, "-c", program, json.dumps(spec)], check=True, capture_output=True)
    loaded = set(json.loads(found.stdout))
    assert "fisk_core.pools.file" in loaded
    assert loaded & HEAVY == set()
