# SPDX-License-Identifier: Apache-2.0
"""Access paths ``file`` and ``block``: real files, devices and file systems over a real worker."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fisk_core.access import AccessPath, Details, nbd_devices
from fisk_core.access.block import Block
from fisk_core.access.file import File
from fisk_core.access.loops import devices_of
from fisk_core.access.mounts import is_mounted
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient, hand_over
from fisk_core.engine import Engine
from fisk_core.errors import InUse, InvalidValue, MissingTool, NotFound, PoolError, Unsupported
from fisk_core.model import Fisk
from tests.engines import MIB, serving

SIZE = 64 * MIB


class LoopBlock(Block):
    """A loop device, also where the kernel has an NBD client (for that: ``proof.kernelnbd``)."""

    def plan(
        self, fisk: Fisk, uri: str | None, directory: Path, *, read_only: bool, options: Mapping[str, Any]
    ) -> Details:
        wanted = {"backend": "loop", **options}
        return super().plan(fisk, uri, directory, read_only=read_only, options=wanted)


def usable(path: AccessPath) -> None:
    if lacking := path.available():
        pytest.skip(lacking)


@contextmanager
def attached(
    engine: Engine, path: AccessPath, *, size: int = SIZE, attributes: Any = None, **options: Any
) -> Iterator[tuple[Path, dict[str, Any], NbdClient]]:
    """Serve a new Fisk and reach it by ``path``; nothing may be left behind in the end."""
    usable(path)
    fisk = engine.create("disk", size, attributes=attributes)
    directory = engine.home.run / "access"
    with serving(engine, "disk") as (worker, client):
        details = path.plan(fisk, worker.uri, directory, read_only=False, options=options)
        try:
            reached = path.connect(details)
            assert reached is not None
            yield Path(reached), details, client
        finally:
            path.disconnect(details, force=True)
        assert not directory.exists()
        assert not devices_of(directory / "disk.raw")
        assert not is_mounted(directory / "disk.raw")


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(process: int) -> None:
    """Wait until a process that is not our child is gone."""
    try:
        pidfd = os.pidfd_open(process)
    except ProcessLookupError:
        return
    with open(pidfd, "rb") as opened:
        import select

        select.select([opened], [], [], 10)


def kill_server(details: dict[str, Any]) -> None:
    process = int((Path(details["directory"]) / "fuse.pid").read_text().split()[0])
    os.kill(process, signal.SIGKILL)
    wait_for(process)


def test_file_is_the_fisk(engine: Engine) -> None:
    with attached(engine, File(engine)) as (file, _, client):
        assert file.stat().st_size == SIZE
        with file.open("r+b", buffering=0) as opened:
            opened.seek(5 * MIB + 100)
            opened.write(b"over the file")
            os.fsync(opened.fileno())
            assert client.read(5 * MIB + 100, 13) == b"over the file"
            client.write(9 * MIB, b"over NBD")
            assert os.pread(opened.fileno(), 8, 9 * MIB) == b"over NBD"


def test_a_hole_in_the_file_is_a_trim(engine: Engine) -> None:
    with attached(engine, File(engine)) as (file, _, client):
        client.write(0, b"x" * MIB)
        run("fallocate", "--punch-hole", "--offset", 4096, "--length", MIB - 4096, file)
        assert client.read(0, MIB) == b"x" * 4096 + bytes(MIB - 4096)
    assert engine.usage("disk").referenced == 4096


def test_file_system_in_the_file(engine: Engine) -> None:
    with attached(engine, File(engine)) as (file, _, client):
        run("mkfs.ext4", "-q", "-L", "in-a-file", file)
        assert client.read(1024 + 120, 9) == b"in-a-file"
        run("fsck.ext4", "-f", "-n", file)


def test_connecting_twice_is_connecting_once(engine: Engine) -> None:
    with attached(engine, LoopBlock(engine)) as (device, details, _):
        assert LoopBlock(engine).connect(details) == str(device)
        assert devices_of(Path(details["directory"]) / "disk.raw") == [device]


def test_disconnecting_what_was_never_made(engine: Engine) -> None:
    for path in (File(engine), LoopBlock(engine)):
        usable(path)
        fisk = engine.create(path.name, SIZE)
        details = path.plan(
            fisk, "nbd+unix:///x?socket=/x", engine.home.run / "none", read_only=False, options={}
        )
        assert not path.alive(details)
        path.disconnect(details)


@pytest.mark.parametrize("fstype", ["ext4", "xfs"])
def test_file_system_on_the_device(engine: Engine, tmp_path: Path, fstype: str) -> None:
    with attached(engine, LoopBlock(engine), size=320 * MIB) as (device, details, client):
        run(f"mkfs.{fstype}", "-q", device)
        run("mount", device, tmp_path)
        try:
            (tmp_path / "kept").write_bytes(b"kept on a Fisk" * 1000)
            with pytest.raises(InUse, match="is in use"):
                LoopBlock(engine).disconnect(details)
            assert (tmp_path / "kept").read_bytes() == b"kept on a Fisk" * 1000
        finally:
            run("umount", tmp_path)
        run(*{"ext4": ("fsck.ext4", "-f", "-n"), "xfs": ("xfs_repair", "-n")}[fstype], device)
        assert LoopBlock(engine).alive(details)
        with device.open("rb") as opened:
            assert opened.read(8 * MIB) == client.read(0, 8 * MIB)


def test_a_device_that_is_open_is_refused_and_stays(engine: Engine) -> None:
    with attached(engine, LoopBlock(engine)) as (device, details, _):
        with device.open("rb"), pytest.raises(InUse, match="is in use"):
            LoopBlock(engine).disconnect(details)
        assert LoopBlock(engine).alive(details)  # closing it did not remove it


def test_a_file_that_is_open_is_refused_and_stays(engine: Engine) -> None:
    with attached(engine, File(engine)) as (file, details, _):
        with file.open("rb"), pytest.raises(InUse, match="is open"):
            File(engine).disconnect(details)
        assert File(engine).alive(details)


def test_discards_reach_the_fisk(engine: Engine) -> None:
    with attached(engine, LoopBlock(engine)) as (device, _, client):
        client.write(0, b"x" * 8 * MIB)
        run("blkdiscard", "--length", 8 * MIB, device)
        assert client.read(0, 8 * MIB) == bytes(8 * MIB)
    assert engine.usage("disk").referenced == 0


def test_size_follows(engine: Engine) -> None:
    with attached(engine, LoopBlock(engine)) as (device, details, client):
        engine.resize("disk", 2 * SIZE)
        for _ in range(2):
            LoopBlock(engine).resized(details, 2 * SIZE)
        assert int(run("blockdev", "--getsize64", device)) == 2 * SIZE
        with device.open("r+b") as opened:
            opened.seek(2 * SIZE - 4096)
            opened.write(b"the new end")
            opened.flush()
            os.fsync(opened.fileno())
        client.close()
        with NbdClient.connect(details["uri"]) as later:
            assert later.read(2 * SIZE - 4096, 11) == b"the new end"


def test_sectors_of_4096(engine: Engine) -> None:
    with attached(engine, LoopBlock(engine), sector_size=4096) as (device, _, _client):
        assert run("blockdev", "--getss", device).strip() == "4096"


def test_a_server_that_was_killed_is_replaced(engine: Engine) -> None:
    with attached(engine, LoopBlock(engine)) as (_, details, client):
        client.write(0, b"still here")
        kill_server(details)
        assert not LoopBlock(engine).alive(details)
        device = Path(LoopBlock(engine).connect(details) or "")
        assert LoopBlock(engine).alive(details)
        with device.open("rb") as opened:
            assert opened.read(10) == b"still here"


def test_what_a_killed_server_left_is_removed(engine: Engine) -> None:
    with attached(engine, LoopBlock(engine)) as (_, details, _client):
        kill_server(details)
        LoopBlock(engine).disconnect(details)  # and ``attached`` looks whether anything is left


def test_a_restarted_worker_is_found_again(engine: Engine) -> None:
    path = File(engine)
    usable(path)
    fisk = engine.create("disk", SIZE)
    with serving(engine, "disk") as (worker, client):
        client.write(0, b"before")
        details = path.plan(fisk, worker.uri, engine.home.run / "a", read_only=False, options={})
        file = Path(path.connect(details) or "")
    try:
        with serving(engine, "disk"):
            assert file.read_bytes()[:6] == b"before"
            path.disconnect(details)
    finally:
        path.disconnect(details, force=True)


def test_read_only(engine: Engine) -> None:
    path = LoopBlock(engine)
    usable(path)
    fisk = engine.create("disk", SIZE)
    with serving(engine, "disk") as (worker, client):
        client.write(0, b"frozen")
        details = path.plan(fisk, worker.uri, engine.home.run / "a", read_only=True, options={})
        try:
            device = Path(path.connect(details) or "")
            with device.open("rb") as opened:
                assert opened.read(6) == b"frozen"
            assert run("blockdev", "--getro", device).strip() == "1"
        finally:
            path.disconnect(details)


def test_a_home_behind_a_symbolic_link(engine: Engine, tmp_path: Path) -> None:
    path = LoopBlock(engine)
    usable(path)
    fisk = engine.create("disk", SIZE)
    (tmp_path / "link").symlink_to(engine.home.run)
    with serving(engine, "disk") as (worker, _):
        details = path.plan(fisk, worker.uri, tmp_path / "link" / "a b", read_only=False, options={})
        path.connect(details)
        assert path.alive(details)
        path.disconnect(details)
        assert not path.alive(details)
    assert not (engine.home.run / "a b").exists()


def test_unknown_options_are_refused(engine: Engine) -> None:
    path = LoopBlock(engine)
    usable(path)
    fisk = engine.create("disk", SIZE)
    for options in ({"sector_size": 1000}, {"colour": "red"}, {"backend": "tape"}):
        with pytest.raises(InvalidValue):
            path.plan(fisk, "nbd+unix:///x?socket=/x", Path("/x"), read_only=False, options=options)


def test_what_a_killed_worker_acknowledged_is_there(engine: Engine) -> None:
    path = File(engine)
    usable(path)
    fisk = engine.create("disk", SIZE)
    directory = engine.home.run / "a"
    try:
        with pytest.raises(PoolError), serving(engine, "disk") as (worker, _):  # noqa: PT012 - its end raises
            details = path.plan(fisk, worker.uri, directory, read_only=False, options={})
            file = Path(path.connect(details) or "")
            with file.open("r+b", buffering=0) as opened:
                opened.write(b"x" * MIB)
            os.kill(worker.pid, signal.SIGKILL)
        with serving(engine, "disk"), file.open("r+b", buffering=0) as opened:
            assert opened.read(MIB) == b"x" * MIB
            os.fsync(opened.fileno())
        path.disconnect(details)
        with engine.open_disk("disk") as disk:
            assert disk.read(0, MIB) == b"x" * MIB
    finally:
        path.disconnect(details, force=True)


def test_many_small_writes_at_once(engine: Engine) -> None:
    """What overlaps in time must not be mixed up: file systems of small blocks notice."""
    with attached(engine, LoopBlock(engine)) as (device, _, _client):
        for _ in range(3):
            run("mkfs.ext4", "-q", "-b", "1024", device)
            run("fsck.ext4", "-f", "-n", device)


def planned(engine: Engine, **options: Any) -> dict[str, Any]:
    fisk = engine.create("disk", SIZE)
    uri = "nbd+unix:///x?socket=/x"
    return Block(engine).plan(fisk, uri, Path("/x"), read_only=False, options=options)


def lack(monkeypatch: pytest.MonkeyPatch, sentence: str | None) -> None:
    """Have the host lack what the kernel's NBD client takes, or (None) nothing of it."""
    monkeypatch.setattr(nbd_devices, "lacking", lambda: sentence)


def test_the_kernels_client_is_taken_where_it_is(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, None)
    assert planned(engine)["backend"] == "nbd"


def test_a_loop_device_where_it_is_not(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    usable(Block(engine))
    lack(monkeypatch, "no module nbd")
    assert planned(engine)["backend"] == "loop"


def test_a_backend_that_cannot_be_had(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "no module nbd")
    with pytest.raises(MissingTool, match="'block' with backend 'nbd': no module nbd"):
        planned(engine, backend="nbd")


def test_options_may_be_text(engine: Engine) -> None:
    """As they come from the command line."""
    usable(LoopBlock(engine))
    assert planned(engine, backend="loop", sector_size="4096")["sector_size"] == 4096


def test_a_device_of_before_there_was_a_choice(engine: Engine) -> None:
    with attached(engine, LoopBlock(engine)) as (_, details, _client):
        del details["backend"]
        assert Block(engine).alive(details)


def test_a_connection_for_somebody_else(engine: Engine) -> None:
    """Who speaks only the simplest form of the protocol, as the kernel does."""
    engine.create("disk", SIZE)
    with serving(engine, "disk") as (worker, client):
        client.write(0, b"content")
        sock, info = hand_over(worker.uri)
        assert (info.size, info.structured) == (SIZE, False)
        with sock:
            sock.settimeout(10)
            sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 7, 0, 7))
            answer = sock.recv(p.SIMPLE_REPLY.size + 7, socket.MSG_WAITALL)
        assert answer == p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, 0, 7) + b"content"


def test_connections_that_cannot_be_handed_over(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        hand_over(f"nbd+unix:///x?socket={tmp_path}/nobody")
    with pytest.raises(Unsupported, match="TLS"):
        hand_over(f"nbds+unix:///x?socket={tmp_path}/nobody")
