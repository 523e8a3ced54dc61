# SPDX-License-Identifier: Apache-2.0
"""The modules on which the promises rest, and the quick tests that hold them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """``modules`` below fisk_core and ``tests`` below tests, both as paths without suffix."""

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]
    slow: tuple[str, ...] = ()
    """tests that say nothing the others do not, and take long: not run for each mutant"""

    @property
    def sources(self) -> list[str]:
        return [f"fisk_core/{module}.py" for module in self.modules]

    @property
    def files(self) -> list[str]:
        return [f"tests/{test}.py" for test in self.tests]


GROUPS = (
    Group(
        "map",
        tuple(
            f"blockmap/{name}"
            for name in ("__init__", "blob", "diff", "ends", "listed", "pagemap", "source", "stored", "sums")
        ),
        tuple(
            f"unit/test_{name}"
            for name in (
                "blob",
                "blob_bytes",
                "diff",
                "listed",
                "pagemap",
                "pagemap_stored",
                "rot_found",
                "scrub",
                "stored_period",
                "verified_reads",
            )
        ),
    ),
    Group(
        "log",
        ("blockmap/log", "blockmap/journal"),
        tuple(
            f"unit/test_{name}"
            for name in ("log", "log_bytes", "blob_bytes", "pagemap_stored", "journal", "verified_reads")
        ),
    ),
    Group(
        "layer",
        ("pools/file_device", "pools/_files", "dataplane/layers", "dataplane/verify", "dataplane/windows"),
        tuple(
            f"unit/test_{name}"
            for name in ("pool_files", "file_device", "layers", "verified_reads", "windows")
        ),
    ),
    Group(
        "collector",
        ("services/collector", "services/marking"),
        ("unit/test_collector", "unit/test_collector_steps"),
        tuple(f"unit/test_collector.py::test_random_lineages[{seed}]" for seed in (0, 1, 2, 3, 5, 6, 7, 9)),
    ),
    Group(
        "NBD codec",
        tuple(f"dataplane/{name}" for name in ("protocol", "negotiation", "status", "parcel", "reception")),
        tuple(f"unit/test_{name}" for name in ("negotiation", "status", "protocol", "parcel", "reception")),
    ),
)
