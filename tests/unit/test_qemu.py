# SPDX-License-Identifier: Apache-2.0
"""Calling tools that fail, hang, eat memory or talk nonsense.  Scripts play their parts here."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fisk_core.errors import ImageRefused, MissingTool, NoSpace, PoolError
from fisk_core.services import qemu


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_TMPFILE | os.O_RDWR)
    os.truncate(fd, 1 << 20)
    yield fd
    os.close(fd)


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_missing_tool_is_named_with_its_package(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(MissingTool, match=r"^qemu-nbd is not installed \(Debian package qemu-utils\)$"):
        qemu.find("qemu-nbd")


def test_what_qemu_says_comes_without_our_own_words(tools: Path, image: int) -> None:
    options = """json:{"driver": "qcow2"}"""
    tool(
        tools,
        "qemu-img",
        f"echo \"qemu-img: Could not open '{options}': Image is sad\" >&2; echo more >&2; exit 1",
    )
    with pytest.raises(ImageRefused) as caught:
        qemu.image_info(image, "qcow2")
    assert str(caught.value) == "QEMU cannot open it as qcow2: Image is sad"


@pytest.mark.parametrize("script", ["exit 0", "echo '{'", "echo not json", "printf '\\377'"])
def test_nonsense_is_refused(tools: Path, image: int, script: str) -> None:
    tool(tools, "qemu-img", script)
    with pytest.raises(ImageRefused, match="no sensible answer"):
        qemu.image_info(image, "qcow2")


def test_silence_and_signals(tools: Path, image: int) -> None:
    tool(tools, "qemu-img", "exit 7")
    with pytest.raises(ImageRefused, match="status 7"):
        qemu.image_info(image, "qcow2")
    tool(tools, "qemu-img", "kill -SEGV $$")
    with pytest.raises(ImageRefused, match="SIGSEGV"):
        qemu.image_info(image, "qcow2")


def test_time_is_limited(tools: Path, image: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tools, "qemu-img", "exec sleep 60")
    limits = qemu.Limits(1 << 30, 30, 0.3)
    monkeypatch.setattr(qemu, "LOOK", limits)
    monkeypatch.setattr(qemu, "CHECK", limits)
    begun = time.monotonic()
    with pytest.raises(ImageRefused, match=r"within 0\.3 s"):
        qemu.image_info(image, "qcow2")
    with pytest.raises(ImageRefused, match=r"within 0\.3 s"):
        qemu.last_data_byte(image, "vdi")
    assert time.monotonic() - begun < 10


def test_memory_cpu_and_output_are_limited(tools: Path, image: int) -> None:
    """As the tool itself sees it."""
    tool(tools, "qemu-img", "ulimit -v >&2; exit 1")
    with pytest.raises(ImageRefused, match=f": {qemu.LOOK.memory >> 10}$"):
        qemu.image_info(image, "qcow2")
    tool(tools, "qemu-img", "ulimit -t >&2; exit 1")
    with pytest.raises(ImageRefused, match=f": {qemu.LOOK.cpu}$"):
        qemu.image_info(image, "qcow2")
    tool(tools, "qemu-img", 'head -c 2000000 /dev/zero > "$0.out"; echo "$?" >&2; exit 1')
    with pytest.raises(ImageRefused):
        qemu.image_info(image, "qcow2")
    assert (tools / "qemu-img.out").stat().st_size <= 1 << 20


@pytest.mark.parametrize(("status", "refused"), [(0, False), (1, True), (2, True), (3, False), (63, False)])
def test_check_accepts_leaks_and_formats_without_a_check(
    tools: Path, image: int, status: int, refused: bool
) -> None:
    tool(tools, "qemu-img", f"exit {status}")
    if refused:
        with pytest.raises(ImageRefused, match="damaged"):
            qemu.check_image(image, "qcow2")
    else:
        qemu.check_image(image, "qcow2")


def test_the_map_is_read_line_by_line(tools: Path, image: int) -> None:
    lines = [
        '[{ "start": 0, "length": 100, "zero": false, "data": true, "offset": 5000},',
        '{ "start": 100, "length": 900, "zero": true, "data": false},',
        '{ "start": 1000, "length": 10, "zero": false, "data": true, "offset": 300}]',
    ]
    tool(tools, "qemu-img", "cat <<'EOF'\n" + "\n".join(lines) + "\nEOF")
    assert qemu.last_data_byte(image, "vdi") == 5100
    tool(tools, "qemu-img", "echo '[]'")
    assert qemu.last_data_byte(image, "vdi") == 0


def test_a_server_that_does_not_start(tools: Path, image: int) -> None:
    tool(tools, "qemu-nbd", "echo 'qemu-nbd: no' >&2; exit 1")
    with pytest.raises(ImageRefused, match="QEMU cannot serve it as vdi: no"), qemu.serve_image(image, "vdi"):
        pass


def test_progress_of_a_conversion_comes_as_it_goes(tools: Path, tmp_path: Path) -> None:
    tool(
        tools,
        "qemu-img",
        "printf '    (0.00/100%%)\\r    (50.'; sleep 0.05; printf '00/100%%)\\r (100.00/100%%)\\r\\n'",
    )
    seen: list[float] = []
    qemu.convert("nbd://x", tmp_path / "out", "qcow2", (), False, seen.append)
    assert seen == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("message", "kind"), [("No space left on device", NoSpace), ("Input/output error", PoolError)]
)
def test_why_a_conversion_failed(tools: Path, tmp_path: Path, message: str, kind: type[Exception]) -> None:
    tool(tools, "qemu-img", f"echo 'qemu-img: error while writing at byte 0: {message}' >&2; exit 1")
    with pytest.raises(kind, match=message):
        qemu.convert("nbd://x", tmp_path / "out", "qcow2", (), False, lambda _: None)


def test_a_conversion_that_is_not_wanted_any_more_is_ended(tools: Path, tmp_path: Path) -> None:
    tool(tools, "qemu-img", f"echo $$ > {tmp_path}/pid; printf '(0.00/100%%)\\r'; exec sleep 60")
    with pytest.raises(ZeroDivisionError):
        qemu.convert("nbd://x", tmp_path / "out", "qcow2", (), False, lambda share: 1 / share)
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_only_one_file_is_within_reach(image: int) -> None:
    for driver in ("qcow2", "vmdk", "qed"):
        options = qemu.image_options(image, driver)
        assert f'"filename": "/dev/fd/{image}"' in options
        assert '"backing": null' in options
    assert "backing" not in qemu.image_options(image, "vdi")


def test_the_real_tools_are_there() -> None:
    """Otherwise the functional tests skip, and nobody would notice."""
    for name in qemu.PACKAGES:
        assert shutil.which(name)
