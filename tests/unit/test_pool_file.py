# SPDX-License-Identifier: Apache-2.0
"""The file pool passes the conformance tests on every file system there is here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fisk_core.pools import Pool, create_pool
from fisk_core.testing.pool_conformance import PoolConformance
from tests.filesystems import SMALLEST, mounted


@pytest.fixture(scope="class")
def file_system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    fstype = request.cls.fstype
    with mounted(fstype, max(SMALLEST[fstype], 64 << 20), tmp_path_factory.mktemp(fstype)) as directory:
        yield directory


class TestFilePool(PoolConformance):
    """On whatever holds temporary files."""

    @pytest.fixture
    def pool(self, tmp_path: Path) -> Pool:
        return create_pool("file", "conform", {"path": str(tmp_path / "pool")})


class OnFileSystem(PoolConformance):
    """Each test starts with a new pool; the file system is made once."""

    fstype: str

    @pytest.fixture
    def pool(self, file_system: Path, tmp_path: Path) -> Pool:
        return create_pool("file", "conform", {"path": str(file_system / tmp_path.name)})


class TestFilePoolOnXfs(OnFileSystem):
    fstype = "xfs"

    def test_it_has_reflink_and_preallocation(self, pool: Pool) -> None:
        assert pool.capabilities.reflink
        assert pool.capabilities.preallocate


class TestFilePoolOnBtrfs(OnFileSystem):
    fstype = "btrfs"

    def test_it_has_reflink_but_preallocation_does_not_pay(self, pool: Pool) -> None:
        assert pool.capabilities.reflink
        assert not pool.capabilities.preallocate


class TestFilePoolOnExt4(OnFileSystem):
    fstype = "ext4"

    def test_it_has_preallocation_but_no_reflink(self, pool: Pool) -> None:
        assert not pool.capabilities.reflink
        assert pool.capabilities.preallocate


class TestFilePoolOnTmpfs(OnFileSystem):
    """It punches holes, but knows no zeroed ranges."""

    fstype = "tmpfs"


class TestFilePoolOnRamfs(OnFileSystem):
    """It has no fallocate at all."""

    fstype = "ramfs"
    accounts_space = False
