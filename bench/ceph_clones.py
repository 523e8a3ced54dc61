# SPDX-License-Identifier: Apache-2.0
"""Clones a snapshot with librbd and prints the milliseconds of each, as JSON.

A program of its own: Debian's modules for Ceph belong to Debian's interpreter.
``ceph_clones.py CONF POOL IMAGE COUNT``
"""

import json
import sys
import time

import rados  # type: ignore[import-not-found]
import rbd  # type: ignore[import-not-found]


def main(conf: str, pool: str, image: str, count: int) -> None:
    """Snapshot, protect, clone ``count`` times."""
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx(pool) as io:
        with rbd.Image(io, image) as parent:
            parent.create_snap("template")
            parent.protect_snap("template")
        times = []
        for number in range(count):
            start = time.perf_counter()
            rbd.RBD().clone(io, image, "template", io, f"{image}-clone-{number}", features=1)
            times.append((time.perf_counter() - start) * 1e3)
        print(json.dumps(times))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
