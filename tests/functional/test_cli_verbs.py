# SPDX-License-Identifier: Apache-2.0
"""What each command does when all goes well, through the real command."""

import os
import pty
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fisk_core.dataplane.client import NbdClient
from fisk_core.engine import Engine
from fisk_core.errors import NotFound
from tests.commands import Command
from tests.engines import MIB, read, write
from tests.nbd_servers import need

DATA = random.Random(5).randbytes(MIB)


@pytest.fixture
def fisk(home: Path) -> Command:
    return Command(home)


def names(fisk: Command, *words: str) -> list[str]:
    return fisk("list", "-f", "value", "-c", "Name", *words).split()


def test_sizes_for_people_and_for_programs(fisk: Command) -> None:
    assert "1.5 GiB" in fisk("create", "a", "1.5G")
    assert fisk.json("show", "a")["size"] == 3 << 29
    assert fisk("list", "-f", "value", "-c", "Size").strip() == str(3 << 29)
    assert f"size: {3 << 29}" in fisk("show", "a", "-f", "yaml")
    assert "1.5 GiB" in fisk("list")


def test_home_is_chosen(fisk: Command, tmp_path: Path) -> None:
    fisk("--home", tmp_path / "other", "create", "a", "1M")
    assert names(fisk) == []
    del fisk.environment["FISK_HOME"]
    fisk.environment["XDG_DATA_HOME"] = str(tmp_path / "data")
    fisk("create", "b", "1M")
    assert (tmp_path / "data" / "fisk" / "catalog.sqlite").exists()


def test_list_filters(fisk: Command) -> None:
    fisk("pool", "create", "second")
    fisk("create", "web-1", "1M", "--attribute", "tier=gold", "--attribute", "zone=a")
    fisk("create", "web-2", "1M", "--attribute", "tier=gold", "--pool", "second")
    fisk("create", "db", "1M", "--role", "disk")
    fisk("snapshot", "db", "db-snap")
    assert names(fisk) == ["db", "db-snap", "web-1", "web-2"]
    assert names(fisk, "web-*") == ["web-1", "web-2"]
    assert names(fisk, "--role", "disk") == ["db"]
    assert names(fisk, "--state", "frozen") == ["db-snap"]
    assert names(fisk, "--pool", "second") == ["web-2"]
    assert names(fisk, "--attribute", "tier=gold") == ["web-1", "web-2"]
    assert names(fisk, "--attribute", "tier=gold", "--attribute", "zone=a") == ["web-1"]
    assert fisk.json("list", "web-1", "--long")[0]["Attributes"] == {"tier": "gold", "zone": "a"}


def test_import_and_download(fisk: Command, tmp_path: Path) -> None:
    need("qemu-img")
    source, packed, back = tmp_path / "source", tmp_path / "source.qcow2", tmp_path / "back.vmdk"
    source.write_bytes(DATA + bytes(MIB))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", source, packed], check=True)
    made = fisk.json(
        "import", packed, "image", "--format", "qcow2", "--keep-original", "--attribute", "os=none"
    )
    assert (made["role"], made["state"], made["size"]) == ("image", "frozen", 2 * MIB)
    assert made["attributes"]["os"] == "none"
    with Engine.open(fisk.home) as engine:
        assert read(engine, "image", 0, 2 * MIB) == DATA + bytes(MIB)
    fisk("download", "image", back, "--format", "vmdk", "--compress")
    subprocess.run(["qemu-img", "compare", source, back], check=True, capture_output=True)
    fisk("download", "image.original", tmp_path / "original")
    assert (tmp_path / "original").read_bytes() == packed.read_bytes()
    fisk("download", "image", back, "--overwrite", "--format", "raw")
    assert back.read_bytes() == DATA + bytes(MIB)


def test_streams(fisk: Command, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    with source.open("rb") as stream:
        fisk("import", "-", "live", "--live", "--role", "disk", stdin=stream)
    assert fisk.json("show", "live")["state"] == "live"
    with (tmp_path / "target").open("wb") as target:
        fisk("download", "live", "-", stdout=target)
    assert (tmp_path / "target").read_bytes() == DATA


def test_move(fisk: Command) -> None:
    fisk("create", "a", "1M")
    fisk("pool", "create", "other")
    assert fisk.json("move", "a", "other")["pool"] == "other"
    assert fisk.json("show", "a")["pool"] == "other"
    assert "nowhere" in fisk.fails(NotFound, "move", "a", "nowhere")


def test_snapshot_clone_revert_diff(fisk: Command) -> None:
    fisk("create", "a", "1M")
    fisk("create", "b", "1M")
    pairs = fisk("snapshot", "a=a0", "b=b0", "-f", "value", "-c", "Name")
    assert pairs.split() == ["a0", "b0"]
    with Engine.open(fisk.home) as engine:
        write(engine, "a", 8192, b"x" * 4096)
    assert fisk.json("diff", "a0", "a") == [{"Offset": 8192, "Length": 4096, "Change": "data"}]
    assert {each["Change"]: each["Length"] for each in fisk.json("diff", "a0", "a", "--summary")} == {
        "data": 4096,
        "zero": 0,
    }
    clones = fisk(
        "clone", "a", "c", "--count", "3", "--size", "2M", "-f", "value", "-c", "Name", "-c", "Size"
    )
    assert clones.split() == ["c-1", str(2 * MIB), "c-2", str(2 * MIB), "c-3", str(2 * MIB)]
    fisk("revert", "a", "a0")
    assert fisk.json("diff", "a0", "a") == []
    fisk("delete", "a0", "c-1", "c-2")
    assert {"a", "b", "b0", "c-3"} <= set(names(fisk))
    assert fisk.run("check").returncode == 0


def test_set(fisk: Command) -> None:
    fisk("create", "a", "1M", "--attribute", "x=1", "--attribute", "y=2")
    changed = fisk.json(
        "set", "a", "--name", "b", "--role", "image", "--attribute", "z=3=4", "--unset", "x", "--freeze"
    )
    assert (changed["name"], changed["role"], changed["state"]) == ("b", "image", "frozen")
    assert changed["attributes"] == {"y": "2", "z": "3=4"}


def test_resize(fisk: Command) -> None:
    fisk("create", "a", "1M")
    assert fisk.json("resize", "a", "2M")["size"] == 2 * MIB
    assert fisk.json("resize", "a", "1M", "--shrink")["size"] == MIB


def test_tree(fisk: Command) -> None:
    fisk("create", "a", "1M")
    fisk("snapshot", "a", "s")
    fisk("clone", "s", "c", "--count", "2")
    fisk("create", "other", "1M")
    fisk.environment["PYTHONIOENCODING"] = "utf-8"
    drawn = [
        line.partition("  volume")[0].partition("  snapshot")[0].rstrip()
        for line in fisk("tree").splitlines()
    ]
    assert drawn == ["a", "└── s", "    ├── c-1", "    └── c-2", "other"]
    assert [(each["Depth"], each["Name"]) for each in fisk.json("tree", "s")] == [
        (0, "s"),
        (1, "c-1"),
        (1, "c-2"),
    ]
    fisk.environment["PYTHONIOENCODING"] = "ascii"
    assert "|-- c-1" in fisk("tree")
    assert fisk("tree", "other").splitlines()[0].startswith("other")


def test_map(fisk: Command) -> None:
    fisk("create", "a", "1M")
    with Engine.open(fisk.home) as engine:
        write(engine, "a", 0, b"1" * (MIB // 2))
        engine.snapshot("a", "s")
        write(engine, "a", 0, b"2" * (MIB // 4))
    drawn = fisk("map", "a", "--width", "80")
    assert "\x1b" not in drawn
    cells = "".join(
        line.split()[-1] for line in drawn.splitlines()[1:] if set(line.split()[-1]) <= set("AB.")
    )
    assert len(cells) == 256
    assert {letter: cells.count(letter) for letter in "AB."} == {"A": 64, "B": 64, ".": 128}
    layers = {each["Letter"]: (each["Size"], each["Fisks"]) for each in fisk.json("map", "a")}
    assert layers == {"A": (MIB // 4, ["s"]), "B": (MIB // 4, ["a"])}
    for width in ("1", "11", "300"):
        assert fisk("map", "a", "--width", width, "--rows", "1")
    with_colour = in_terminal(fisk, "map", "a")
    assert "\x1b[" in with_colour


def test_route(fisk: Command) -> None:
    fisk("create", "a", "1M")
    with Engine.open(fisk.home) as engine:
        write(engine, "a", 4096, b"here")
    found = fisk.json("route", "a", "4K")
    with open(found["path"], "rb") as file:
        file.seek(found["file_offset"])
        assert file.read(4) == b"here"
    assert fisk.json("route", "a", "0")["path"] is None


def test_gc_check_scrub(fisk: Command) -> None:
    fisk("create", "a", "1M")
    with Engine.open(fisk.home) as engine:
        write(engine, "a", 0, DATA)
        engine.snapshot("a", "s")
        write(engine, "a", 0, DATA[: MIB // 2])
        engine.snapshot("a", "t")
    fisk("delete", "s")
    assert fisk.json("gc", "--dry-run")["reclaimed"] == MIB // 2
    assert fisk.json("gc")["reclaimed"] == MIB // 2
    assert fisk.json("gc")["reclaimed"] == 0
    for verb in ("check", "scrub"):
        done = fisk.run(verb, "-f", "json")
        assert (done.returncode, done.stdout) == (0, "[]\n")
    assert fisk.run("--quiet", "check").stderr == ""


def test_pools_and_a_lost_catalog(fisk: Command, tmp_path: Path) -> None:
    made = fisk.json(
        "pool", "create", "second", "--path", str(tmp_path / "second"), "--option", "checksum=crc32"
    )
    assert made["options"]["checksum"] == "crc32"
    assert fisk("pool", "list", "-f", "value", "-c", "Name").split() == ["second"]
    fisk("create", "a", "1M", "--pool", "second")
    with Engine.open(fisk.home) as engine:
        write(engine, "a", 0, DATA)
    fisk("pool", "create", "third")
    assert fisk.json("move", "a", "third")["pool"] == "third"
    assert fisk.json("move", "a", "second")["pool"] == "second"
    shutil.rmtree(fisk.home)
    found = fisk.json("pool", "rescan", "second", "--path", str(tmp_path / "second"))
    assert (found["fisks"], found["damaged"]) == (["a"], [])
    with Engine.open(fisk.home) as engine:
        assert read(engine, "a", 0, MIB) == DATA


# Serving


def test_serve_and_snapshot_meanwhile(fisk: Command) -> None:
    fisk("create", "a", "1M")
    with fisk.serving("a") as uri, NbdClient.connect(uri) as client:
        assert fisk.json("show", "a")["served_at"] == [uri]
        client.write(0, b"old")
        fisk("snapshot", "a", "s")
        client.write(0, b"new")
        client.flush()
    with Engine.open(fisk.home) as engine:
        assert (read(engine, "s", 0, 3), read(engine, "a", 0, 3)) == (b"old", b"new")
    assert not list((fisk.home / "run").glob("*.nbd"))
    assert not list((fisk.home / "run").glob("*.ctl"))


def test_several_readers_of_a_frozen_fisk(fisk: Command, tmp_path: Path) -> None:
    fisk("create", "a", "1M")
    fisk("snapshot", "a", "s")
    readers = [fisk.start("serve", "s") for _ in range(3)]
    try:
        uris = [each.stdout.readline().strip() for each in readers if each.stdout]
        assert len(set(uris)) == 3
        for uri in uris:
            with NbdClient.connect(uri) as client:
                assert client.read_only
        with fisk.serving("s", "--socket", str(fisk.home / "mine"), "--export-name", "x") as uri:
            assert uri == f"nbd+unix:///x?socket={fisk.home}/mine"
    finally:
        for each in readers:
            each.terminate()
            assert each.communicate()[1] == ""
    assert [each.returncode for each in readers] == [0, 0, 0]
    assert not list((fisk.home / "run").glob("*.nbd"))


def test_serve_a_live_fisk_read_only_over_tcp(fisk: Command) -> None:
    fisk("create", "a", "1M")
    with fisk.serving("a", "--read-only", "--listen", "127.0.0.1:0") as uri, NbdClient.connect(uri) as client:
        assert uri.startswith("nbd://127.0.0.1:")
        assert client.read_only
        assert client.read(0, 4096) == bytes(4096)


def test_forced_delete_stops_the_worker(fisk: Command) -> None:
    fisk("create", "a", "1M")
    with fisk.start("serve", "a") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        fisk("delete", "a", "--force")
        assert process.wait(30) == 0
    assert names(fisk) == []


# In a terminal


def in_terminal(fisk: Command, *words: str) -> str:
    """Run the command with a terminal as its output and give what appears there."""
    ours, theirs = pty.openpty()
    environment = {**fisk.environment, "TERM": "xterm-256color"}
    command = [*fisk.program, *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = bytearray()
        while part := _some(ours):
            shown += part
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def _some(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # the other side of a terminal is gone
        return b""


def test_progress_is_for_terminals(fisk: Command, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA * 8)
    assert "\x1b[" in in_terminal(fisk, "import", str(source), "seen")
    assert "\x1b[" not in in_terminal(fisk, "--quiet", "import", str(source), "unseen")
    done = fisk.run("import", source, "piped")
    assert (done.returncode, done.stderr) == (0, "")


def test_raw_bytes_are_not_for_terminals(fisk: Command) -> None:
    fisk("create", "a", "1M")
    with pytest.raises(AssertionError, match="standard output is a terminal"):
        in_terminal(fisk, "download", "a", "-")


# The OpenStack client


@pytest.fixture
def openstack(fisk: Command) -> Command:
    program = Path(sys.executable).with_name("openstack")
    if not program.exists():
        pytest.skip("python-openstackclient is not installed")
    fisk.program = (str(program),)
    fisk.environment.pop("PYTHONWARNINGS")  # what the client and its libraries warn of is theirs
    return fisk


def test_openstack_plugin(openstack: Command, tmp_path: Path) -> None:
    openstack("fisk", "create", "a", "1M")
    openstack("fisk", "snapshot", "a=s")
    assert openstack("fisk", "list", "-f", "value", "-c", "Name").split() == ["a", "s"]
    assert openstack.json("fisk", "pool", "list")[0]["Name"] == "default"
    assert openstack("--fisk-home", tmp_path / "other", "fisk", "list", "-f", "json") == "[]\n"
    done = openstack.run("fisk", "show", "nothing")
    assert (done.returncode, done.stderr) == (3, "fisk: there is no Fisk 'nothing'\n")
