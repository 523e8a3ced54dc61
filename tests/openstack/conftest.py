# SPDX-License-Identifier: Apache-2.0
"""The cloud, the daemon behind it, and an end to everything a test made."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from openstack.connection import Connection
from openstack.exceptions import NotFoundException

from fisk_core.client import RemoteEngine
from tests.openstack import cloud as clouds

Later = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="session")
def cloud() -> Iterator[Connection]:
    """A connection as ``admin``, whose project may have as many volumes as it likes."""
    with clouds.connect() as found:
        no_limit = dict.fromkeys(("volumes", "gigabytes", "snapshots", "backups", "backup_gigabytes"), -1)
        found.block_storage.update_quota_set(found.current_project_id, **no_limit, groups=-1)
        yield found


@pytest.fixture(scope="session")
def engine() -> Iterator[RemoteEngine]:
    """The daemon behind the cloud."""
    with RemoteEngine.open(clouds.daemon_url()) as found:
        yield found


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes names that nobody else has."""
    return clouds.unique


@pytest.fixture
def later() -> Iterator[Later]:
    """Call it with what shall be done after the test, the last given first; what is gone already is fine."""
    pending: list[Callable[[], object]] = []
    yield pending.append
    failed: list[Exception] = []
    for each in reversed(pending):
        try:
            with suppress(NotFoundException):
                each()
        except Exception as problem:  # the others are to be cleaned up all the same
            failed.append(problem)
    if failed:
        raise ExceptionGroup("cleaning up", failed)


@pytest.fixture(scope="session")
def raw_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw image of 24 MiB, half of it data."""
    return clouds.raw_file(tmp_path_factory.mktemp("images") / "disk.raw")


@pytest.fixture(scope="session")
def qcow2_image(raw_image: Path) -> Path:
    """The same as qcow2."""
    return clouds.converted(raw_image, "qcow2")


@pytest.fixture
def make(cloud: Connection, later: Later) -> clouds.Maker:
    """Makes volumes, snapshots, images … that are gone after the test."""
    return clouds.Maker(cloud, later)
