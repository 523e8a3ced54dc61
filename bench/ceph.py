# SPDX-License-Identifier: Apache-2.0
"""A Ceph cluster for comparison: one monitor and one bluestore OSD on a sparse file, all on loopback.

No authentication and no cache in librbd (``rbd cache = false``), so that a write answered is a write the OSD
has.  Needs Debian's ceph-mon, ceph-osd, ceph-common and python3-rbd; its row is skipped without them.
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.fio import Target
from bench.peers import free_port
from bench.processes import BenchFailed, call, end, wait_until

PROGRAMS = ("ceph-mon", "ceph-osd", "monmaptool", "rbd")
PYTHON = "/usr/bin/python3"
"""the interpreter Debian's modules for Ceph belong to"""
POOL = "bench"
_BLOCK_SIZE = 40 << 30  # sparse
_START_SECONDS = 60

_CONF = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port}]
mon initial members = a
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
run dir = {folder}
admin socket = {folder}/$cluster-$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 16
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
paxos propose interval = 0.05
paxos min wait = 0.01
rbd cache = false

[mon.a]
mon data = {folder}/mon.a

[osd.0]
osd data = {folder}/osd.0
bluestore block create = true
bluestore block size = {size}
osd memory target = 2147483648
"""


def missing() -> str | None:
    """Say what of Ceph is not installed; None when everything is."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    try:
        call([PYTHON, "-c", "import rados, rbd"])
    except BenchFailed:
        return "python3-rbd not installed"
    return None


class Cluster:
    """A running cluster with one pool for images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / ".ceph" / "ceph.conf"  # where librados looks below $HOME

    def rbd(self, *words: str) -> str:
        """Run Ceph's own command."""
        return call(["rbd", "--conf", str(self.conf), *words])

    def ceph(self, *words: str) -> str:
        """Ask the monitor."""
        return call(["ceph", "--conf", str(self.conf), "--connect-timeout", "10", *words])

    def create_image(self, name: str, size: int) -> None:
        """Make an image and write all of it."""
        self.rbd("create", f"{POOL}/{name}", "--size", f"{size}B")
        self.rbd("bench", f"{POOL}/{name}", "--io-type", "write", "--io-size", "4M", "--io-total", str(size),
                 "--io-threads", "8", "--io-pattern", "seq")  # fmt: skip

    def target(self, name: str) -> Target:
        """Give the image as fio names it, through its own librbd engine."""
        image = (f"--pool={POOL}", f"--rbdname={name}")
        options = ("--ioengine=rbd", *image, "--clientname=admin", "--direct=1")
        return Target(options, {"HOME": str(self.folder)})

    def clones(self, name: str, count: int) -> list[float]:
        """Clone a snapshot in process, by librbd's Python binding; gives the milliseconds of each."""
        program = str(Path(__file__).with_name("ceph_clones.py"))
        said = call([PYTHON, program, str(self.conf), POOL, name, str(count)])
        times: list[float] = json.loads(said)
        return times

    def _start_monitor(self, fsid: str, port: int) -> int:
        map_file, data = self.folder / "monmap", self.folder / "mon.a"
        data.mkdir()
        address = f"[v2:127.0.0.1:{port}]"
        call(["monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, str(map_file)])
        common = ["--conf", str(self.conf), "-i", "a"]
        call(["ceph-mon", *common, "--mkfs", "--monmap", str(map_file)])
        call(["ceph-mon", *common])
        return self._pid("mon.a")

    def _start_osd(self) -> int:
        (self.folder / "osd.0").mkdir()
        own = str(uuid.uuid4())
        self.ceph("osd", "new", own)
        common = ["--conf", str(self.conf), "-i", "0"]
        call(["ceph-osd", *common, "--mkfs", "--osd-uuid", own])
        call(["ceph-osd", *common])
        return self._pid("osd.0")

    def _pid(self, name: str) -> int:
        """Give the id of a daemon that puts itself in the background."""
        path = self.folder / f"{name}.pid"
        wait_until(lambda: path.exists() and path.read_text().strip().isdecimal(), f"{name} starts")
        return int(path.read_text())

    def _is_up(self) -> bool:
        state = json.loads(self.ceph("osd", "stat", "--format", "json"))
        return bool(state.get("num_up_osds"))


@contextmanager
def cluster(scratch: Path) -> Iterator[Cluster]:
    """Make a cluster, and remove every trace of it afterwards; raises BenchFailed."""
    folder = scratch / "ceph"
    folder.mkdir(parents=True)
    made = Cluster(folder)
    fsid, port = str(uuid.uuid4()), free_port()
    made.conf.parent.mkdir()
    made.conf.write_text(_CONF.format(fsid=fsid, port=port, folder=folder, size=_BLOCK_SIZE))
    try:
        with ExitStack() as stack:
            stack.callback(end, made._start_monitor(fsid, port))
            stack.callback(end, made._start_osd())
            wait_until(made._is_up, "the OSD is up", _START_SECONDS)
            made.ceph("osd", "pool", "create", POOL, "16")
            made.rbd("pool", "init", POOL)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
