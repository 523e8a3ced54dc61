# SPDX-License-Identifier: Apache-2.0
"""Images come in and go out: a file or a Fisk is there as a whole or not at all."""

import fcntl
import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from fisk_core.engine import Engine
from fisk_core.locks import Lock
from fisk_core.services import qemu, sources
from proof.faults.calls import GONE, STUCK
from proof.faults.scenarios import scenario
from proof.faults.stage import BLOCK, PAGE, SIZE, TINY, Stage, serving
from proof.oracle import Oracle

_HOLE = 4 * PAGE


def _content(stage: Stage) -> bytes:
    """Data, a hole, data."""
    end = SIZE - _HOLE - 5 * PAGE
    return stage.fill(5 * PAGE) + bytes(_HOLE) + stage.fill(end)


def _sparse(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data[: 5 * PAGE])
        file.seek(5 * PAGE + _HOLE)
        file.write(data[5 * PAGE + _HOLE :])


def _files(stage: Stage) -> None:
    """A raw image with a hole, and a Fisk that holds the same."""
    data = _content(stage)
    _sparse(stage.files / "image", data)
    (stage.files / "there").write_bytes(b"what was there")
    with stage.engine() as engine:
        assert engine is not None
        engine.import_image(str(stage.files / "image"), "known", **TINY)
    stage.hold("known", Oracle(SIZE, BLOCK, bytearray(data)), certain=True)


def _qcow2(stage: Stage) -> None:
    """The same as qcow2, in a file that others may write."""
    _files(stage)
    image = stage.files / "image"
    command = ["qemu-img", "convert", "-O", "qcow2", str(image), str(stage.files / "qcow2")]
    subprocess.run(command, check=True)
    (stage.files / "qcow2").chmod(0o666)


def _take_in(stage: Stage, name: str, call: Callable[[], object]) -> None:
    """Import something that holds what ``known`` does."""
    done, _ = stage.attempt(f"import {name}", call)
    stage.hold(name, stage.fisks["known"][0].copy(), certain=done)


@scenario("raw images come in", _files)
def imported(stage: Stage) -> None:
    """From a file, which has holes, from a stream, which has none, and with the original kept."""
    image = stage.files / "image"
    with stage.engine() as engine:
        if engine is None:
            return
        _take_in(stage, "a", lambda: engine.import_image(str(image), "a", **TINY))
        _take_in(stage, "b", lambda: engine.import_image(io.BytesIO(image.read_bytes()), "b"))

        def whole() -> None:
            with sources.open_path(image) as file:
                engine.import_image(file, "c", keep_original=True, frozen=False, **TINY)

        _take_in(stage, "c", whole)
        stage.hold("c.original", stage.fisks["known"][0].copy(), certain="c" not in stage.perhaps)


@scenario("raw images go out", _files)
def downloaded(stage: Stage) -> None:
    """To a new file, over one that exists, and to a stream."""
    wanted = bytes(stage.fisks["known"][0].content)
    with stage.engine() as engine:
        if engine is None:
            return
        _give_out(stage, engine, "new", b"", wanted)
        _give_out(stage, engine, "there", b"what was there", wanted, overwrite=True)
        with (stage.files / "stream").open("w+b") as stream:
            if stage.attempt("download to a stream", lambda: engine.download("known", stream))[0]:
                stream.seek(0)
                if stream.read() != wanted:
                    stage.blame("a stream got something else than the Fisk")
        pipe = stage.files / "pipe"
        os.mkfifo(pipe)
        end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 2 * SIZE)
        done, _ = stage.attempt("download to a pipe", lambda: engine.download("known", str(pipe)))
        if done and os.read(end, 2 * SIZE) != wanted:
            stage.blame("a pipe got something else than the Fisk")
        os.close(end)


@scenario("raw images go out and in by hand", _files)
def by_hand(stage: Stage) -> None:
    """Where the file system neither copies nor links nor punches."""
    wanted = bytes(stage.fisks["known"][0].content)
    missing = {"os.copy_file_range": "EXDEV", "os.link": "EPERM", "libc.fallocate": "EOPNOTSUPP"}
    stage.injector.without.update(missing)
    with stage.engine() as engine:
        if engine is None:
            return
        _give_out(stage, engine, "new", b"", wanted)
        source, sink = os.pipe()
        fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 2 * SIZE)
        os.write(sink, wanted)
        os.close(sink)
        with os.fdopen(source, "rb") as pipe:
            _take_in(stage, "piped", lambda: engine.import_image(pipe, "piped", frozen=False))
        with stage.writing(engine, "piped") as drive:
            if drive is not None:
                drive.trim(4 * PAGE, 4 * PAGE)
                drive.zero(9 * PAGE, PAGE, allocate=True)
                drive.flush()


def _give_out(stage: Stage, engine: Engine, name: str, before: bytes, wanted: bytes, **options: bool) -> None:
    path = stage.files / name
    done, _ = stage.attempt(f"download {name}", lambda: engine.download("known", str(path), **options))
    active, stage.injector.active = stage.injector.active, False
    found = path.read_bytes() if path.exists() else b""
    stage.injector.active = active
    if found not in ((wanted,) if done else (wanted, before)):
        stage.blame(f"the file {name} holds part of a Fisk, or something else")
    fault = stage.injector.fault
    left = [each.name for each in stage.files.iterdir() if each.name.endswith(".part")]
    if left and not (fault and (fault.kind in (GONE, STUCK) or fault.site.call == "os.unlink")):
        stage.blame(f"a download left {left}")


@scenario("qcow2 images come in", _qcow2, slow=True)
def converted(stage: Stage) -> None:
    """Copied, for others may write the file, examined, and read through qemu-nbd."""
    with stage.engine() as engine:
        if engine is None:
            return
        _take_in(stage, "a", lambda: engine.import_image(str(stage.files / "qcow2"), "a", **TINY))


def _others(stage: Stage) -> None:
    """A disk image that says where its data ends, and programs that fail, beside some that do not."""
    _files(stage)
    image = stage.files / "image"
    subprocess.run(["qemu-img", "convert", "-O", "vdi", str(image), str(stage.files / "vdi")], check=True)
    for name in ("qemu-nbd", "qemu-img"):
        program = stage.files / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
        program.chmod(0o755)
    for name, tool in (("prlimit", "prlimit"), ("real", "qemu-img")):
        (stage.files / "bin" / name).symlink_to(qemu.find(tool))


@scenario("programs that fail", _others, slow=True)
def failing(stage: Stage) -> None:
    """What they complain about is told; and no others are found where these cannot be looked at."""
    real = os.environ["PATH"]
    with stage.engine() as engine:
        if engine is None:
            return
        _take_in(stage, "a", lambda: engine.import_image(str(stage.files / "vdi"), "a", **TINY))
        try:
            os.environ["PATH"] = str(stage.files / "bin")
            out = stage.files / "out"
            stage.refused("download", lambda: engine.download("known", str(out), format="qcow2"))
            os.replace(stage.files / "bin" / "real", stage.files / "bin" / "qemu-img")
            stage.refused("import", lambda: engine.import_image(str(stage.files / "vdi"), "b", **TINY))
        finally:
            os.environ["PATH"] = real


@scenario("a Fisk that is served goes out", _files, slow=True)
def served_out(stage: Stage) -> None:
    """Read from its worker, which is a process of its own and sees no fault."""
    with stage.engine() as engine:
        if engine is None:
            return
        done, _ = stage.attempt("clone", lambda: engine.clone("known", "live"))
        stage.hold("live", stage.fisks["known"][0].copy(), certain=done)
        _, lock = stage.attempt("acquire", lambda: engine.acquire("live", True))
        if lock is not None:
            with lock:
                stage.attempt("all that follows", lambda: _read_served(stage, engine, lock))


def _read_served(stage: Stage, engine: Engine, lock: Lock) -> None:
    path = stage.files / "out"
    with serving(engine, "live", lock):
        done, _ = stage.attempt("download", lambda: engine.download("live", str(path)))
        if done and path.read_bytes() != bytes(stage.fisks["known"][0].content):
            stage.blame("a download holds something else than the Fisk")


@scenario("qcow2 images come in as a stream", _qcow2, slow=True)
def spooled(stage: Stage) -> None:
    """Spooled into the pool's staging area first, and kept as they are besides."""
    data = (stage.files / "qcow2").read_bytes()
    with stage.engine() as engine:
        if engine is None:
            return
        _take_in(stage, "a", lambda: engine.import_image(io.BytesIO(data), "a", keep_original=True, **TINY))
        name, padded = "a.original", -(-len(data) // BLOCK) * BLOCK
        stage.hold(name, Oracle(padded, BLOCK, bytearray(data)), certain="a" not in stage.perhaps)


@scenario("qcow2 images go out", _files, slow=True)
def converted_out(stage: Stage) -> None:
    """Written by qemu-img from a worker, to a file and, through the staging area, to a stream."""
    path = stage.files / "out"
    with stage.engine() as engine:
        if engine is None:
            return
        done, _ = stage.attempt("download", lambda: engine.download("known", str(path), format="qcow2"))
        if not done and path.exists() and path.stat().st_size == 0:
            stage.blame("a download that failed left an empty file")
        stream = io.BytesIO()
        stage.attempt("download to a stream", lambda: engine.download("known", stream, format="qcow2"))
