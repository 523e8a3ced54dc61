# SPDX-License-Identifier: Apache-2.0
"""The command through a real daemon."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fisk_core import errors
from fisk_core.client import RemoteEngine
from fisk_core.client.disks import connect
from fisk_core.testing.engine_conformance import DATA, MIB, read, write
from tests.commands import Command
from tests.fiskds import Fiskd, running
from tests.nbd_servers import need


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fisk-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def fiskd(folder: Path) -> Iterator[Fiskd]:
    api = {"listen": "127.0.0.1:0"}
    with running(folder / "h", api=api, jobs={"directories": folder}) as daemon:
        yield daemon


@pytest.fixture
def engine(fiskd: Fiskd) -> Iterator[RemoteEngine]:
    with RemoteEngine.open(fiskd.url) as remote:
        yield remote
        for attachment in remote.attachments():
            remote.detach(attachment.id, force=True)
        remote.delete(*(each.id for each in remote.list()), force=True)


@pytest.fixture
def fisk(engine: RemoteEngine, fiskd: Fiskd) -> Command:
    return Command(fiskd.home)


# Which engine


def requests_of(fiskd: Fiskd) -> int:
    return fiskd.log.count("/v1/fisks")


def test_the_daemon_of_the_home_directory_is_asked(fisk: Command, fiskd: Fiskd) -> None:
    before = requests_of(fiskd)
    fisk("create", "a", "1M")
    assert requests_of(fiskd) == before + 1
    assert fisk("--embedded", "list", "-f", "value", "-c", "Name").split() == ["a"]
    assert requests_of(fiskd) == before + 1


def test_the_daemon_of_a_url_is_asked(fisk: Command, fiskd: Fiskd, tmp_path: Path) -> None:
    fisk("create", "a", "1M")
    elsewhere = Command(tmp_path)
    assert elsewhere("--url", fiskd.url, "list", "-f", "value", "-c", "Name").split() == ["a"]
    elsewhere.environment["FISK_URL"] = fiskd.url
    assert elsewhere.json("show", "a")["name"] == "a"
    assert elsewhere("--embedded", "list", "-f", "json") == "[]\n"


def test_a_token_over_tcp(fisk: Command, fiskd: Fiskd, tmp_path: Path) -> None:
    made = fisk.json("token", "create", "watcher", "reader", "--expire", "1h")
    assert (made["name"], made["role"]) == ("watcher", "reader")
    assert fisk.json("token", "list")[0]["Name"] == "watcher"
    there = Command(tmp_path)
    there.environment["FISK_URL"] = f"http://127.0.0.1:{fiskd.port}"
    there.fails(errors.Unauthenticated, "list")
    there.environment["FISK_TOKEN"] = made["secret"]
    assert there("list", "-f", "json") == "[]\n"
    there.fails(errors.Forbidden, "create", "a", "1M")
    fisk("token", "delete", "watcher")
    assert fisk.json("token", "list") == []


def test_without_a_daemon(home: Path) -> None:
    fisk = Command(home)
    for words in (["attach", "a"], ["job", "list"], ["top"], ["import", "/x", "a", "--on-server"]):
        assert "start fiskd" in fisk.fails(errors.Unavailable, *words)
    (home / "run").mkdir()
    (home / "run" / "fiskd.sock").write_bytes(b"")  # what a dead one left
    assert fisk("list", "-f", "json") == "[]\n"
    assert "start fiskd" in fisk.fails(errors.Unavailable, "--embedded", "token", "list")


# The verbs there were


def test_the_picture_of_a_map_from_afar(
    fisk: Command, fiskd: Fiskd, engine: RemoteEngine, tmp_path: Path
) -> None:
    engine.create("a", MIB)
    write(engine, "a", 0, DATA[: MIB // 2])
    engine.snapshot("a", "s")
    write(engine, "a", 0, DATA[: MIB // 4])
    elsewhere = Command(tmp_path)
    words = ("map", "a", "--width", "80")
    there, here = elsewhere("--url", fiskd.url, *words), fisk(*words)
    assert there.splitlines()[:-2] == here.splitlines()[:-2]  # below are the layers, with their ages
    assert elsewhere.json("--url", fiskd.url, *words) == fisk.json(*words)
    assert len(fisk.json(*words)) == 2


def test_the_verbs_there_were(fisk: Command, tmp_path: Path) -> None:
    need("qemu-img")
    source, target = tmp_path / "source", tmp_path / "target.qcow2"
    source.write_bytes(DATA)
    assert fisk.json("import", source, "image", "--attribute", "os=none")["state"] == "frozen"
    fisk("clone", "image", "c", "--count", "2")
    fisk("snapshot", "c-1=s1", "c-2=s2")
    assert fisk.json("diff", "image", "c-1") == []
    assert [each["Name"] for each in fisk.json("list", "c-*")] == ["c-1", "c-2"]
    assert "c-1" in fisk("tree", "image")
    assert fisk.json("show", "image")["referenced"] == MIB
    assert fisk.json("set", "c-1", "--name", "d", "--attribute", "x=y")["attributes"] == {"x": "y"}
    assert fisk.json("resize", "d", "2M")["size"] == 2 * MIB
    fisk("revert", "d", "s1")
    assert fisk.json("route", "image", "0")["path"]
    fisk("download", "image", target)
    subprocess.run(["qemu-img", "compare", source, target], check=True, capture_output=True)
    for verb in ("check", "scrub"):
        assert fisk.run(verb).returncode == 0
    assert fisk.json("gc")["reclaimed"] == 0
    assert fisk.json("pool", "show", "default")["driver"] == "file"
    fisk("pool", "create", "second")
    assert fisk.json("move", "d", "second")["pool"] == "second"
    assert fisk("map", "image", "--width", "80").startswith("image: 1.0 MiB")
    fisk("delete", "image", "d", "c-2", "s1", "s2")
    assert fisk.json("list") == []
    assert fisk.fails(errors.NotFound, "show", "image") == "there is no Fisk 'image'"


def test_streams(fisk: Command, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    with source.open("rb") as stream:
        fisk("import", "-", "live", "--live", stdin=stream)
    with (tmp_path / "target").open("wb") as target:
        fisk("download", "live", "-", stdout=target)
    assert (tmp_path / "target").read_bytes() == DATA


def test_images_of_the_daemons_host(fisk: Command, folder: Path) -> None:
    (folder / "source").write_bytes(DATA)
    fisk("import", folder / "source", "image", "--on-server")
    fisk("download", "image", folder / "target", "--on-server", "--format", "raw")
    assert (folder / "target").read_bytes() == DATA
    fisk.fails(errors.Forbidden, "import", "/etc/hostname", "other", "--on-server")
    assert "standard input" in fisk.misused("import", "-", "other", "--on-server")


# What only a daemon does


def test_attach_and_detach(fisk: Command, engine: RemoteEngine) -> None:
    fisk("create", "a", "1M")
    made = fisk.json("attach", "a", "--consumer", "guest")
    assert (made["access"], made["consumer"], made["read_only"]) == ("nbd", "guest", False)
    with connect(made["uris"], None) as client:
        client.write(0, b"attached")
        client.flush()
    assert fisk.json("show", "a")["served_at"] == made["uris"]
    (listed,) = fisk.json("attachment", "list", "a")
    assert (listed["ID"], listed["Fisk"], listed["Consumer"]) == (made["id"], "a", "guest")
    assert fisk.json("attachment", "show", "a")["uris"] == made["uris"]
    assert "is attached" in fisk.fails(errors.InUse, "delete", "a")
    (worker,) = fisk.json("worker", "list")
    assert (worker["Fisk"], worker["Read Only"]) == ("a", False)
    other = fisk.json("attach", "a")
    assert "2 attachments" in fisk.fails(errors.InvalidValue, "detach", "a")
    fisk("detach", other["id"])
    fisk("detach", "a")
    assert "not attached" in fisk.fails(errors.NotFound, "detach", "a")
    assert read(engine, "a", 0, 8) == b"attached"


def test_upgrade_of_workers(fisk: Command) -> None:
    fisk("create", "a", "1M")
    with connect(fisk.json("attach", "a")["uris"], None) as client:
        client.write(0, b"before")
        (before,) = fisk.json("worker", "list")
        assert fisk.json("worker", "upgrade", "a") == {"upgraded": 1}
        (after,) = fisk.json("worker", "list")
        assert before["PID"] != after["PID"]
        assert client.read(0, 6) == b"before"


def test_a_frozen_fisk_is_attached_for_reading(fisk: Command) -> None:
    fisk("create", "a", "1M")
    fisk("snapshot", "a", "s")
    assert fisk.json("attach", "s")["read_only"] is True


def test_qos(fisk: Command) -> None:
    fisk("create", "a", "1M")
    assert set(fisk.json("qos", "show", "a").values()) == {None}
    shown = fisk.json("qos", "set", "a", "--total-iops", "1000", "--read-bytes", "10M", "--class", "latency")
    assert (shown["total_iops"], shown["read_bytes"], shown["class"]) == (1000, 10 * MIB, "latency")
    assert "10 MiB" in fisk("qos", "show", "a").replace("10.0", "10")
    shown = fisk.json("qos", "set", "a", "--total-iops", "none", "--class", "none")
    assert (shown["total_iops"], shown["read_bytes"], shown["class"]) == (None, 10 * MIB, None)
    fisk.fails(errors.InvalidValue, "qos", "set", "a", "--total-iops", "0")
    assert "nothing to change" in fisk.misused("qos", "set", "a")


def test_locks(fisk: Command) -> None:
    fisk("create", "a", "1M")
    lock = fisk.json("lock", "acquire", "a", "0", "4K", "--owner", "me", "--ttl", "1m")
    assert (lock["offset"], lock["length"], lock["owner"], lock["shared"]) == (0, 4096, "me", False)
    fisk.fails(errors.InUse, "lock", "acquire", "a", "1K", "1K", "--shared")
    assert [each["ID"] for each in fisk.json("lock", "list", "a")] == [lock["id"]]
    fisk("lock", "release", lock["id"])
    assert fisk.json("lock", "list", "a") == []


def test_schedules(fisk: Command) -> None:
    fisk("create", "a", "1M")
    made = fisk.json(
        "schedule",
        "create",
        "a",
        "1h",
        "--keep-last",
        "3",
        "--keep-daily",
        "7",
        "--expire",
        "2w",
        "--disabled",
        "--name-prefix",
        "hourly",
    )
    assert (made["interval"], made["keep"], made["expire"]) == (3600, {"last": 3, "daily": 7}, 14 * 86400)
    assert (made["enabled"], made["prefix"]) == (False, "hourly")
    assert "2 w" in fisk("schedule", "show", made["id"])
    changed = fisk.json(
        "schedule", "set", made["id"], "--keep-daily", "1", "--expire", "never", "--expendable"
    )
    assert (changed["keep"], changed["expire"], changed["expendable"]) == (
        {"last": 3, "daily": 1},
        None,
        True,
    )
    assert "nothing to change" in fisk.misused("schedule", "set", made["id"])
    assert [each["Fisk"] for each in fisk.json("schedule", "list", "a")] == ["a"]
    fisk.fails(errors.InvalidValue, "schedule", "create", "a", "soon")
    fisk("schedule", "delete", made["id"])
    assert fisk.json("schedule", "list") == []


def test_jobs(fisk: Command, engine: RemoteEngine) -> None:
    job = engine.jobs.submit("collect", {"dry_run": True})
    assert fisk.json("job", "wait", job.id)["state"] == "done"
    assert fisk.json("job", "show", job.id)["result"]["dry_run"] is True
    assert job.id in [each["ID"] for each in fisk.json("job", "list", "--kind", "collect")]
    fisk("job", "cancel", job.id)
    failing = engine.jobs.submit("rescan", {"pool": "default"})
    engine.create("a", MIB)
    assert engine.jobs.wait(failing.id).over
    bad = engine.jobs.submit("rescan", {"pool": "default"})
    assert "forced rescan" in fisk.fails(errors.AlreadyExists, "job", "wait", bad.id)
    fisk.fails(errors.NotFound, "job", "show", "6f1c9a52-7d1e-4a55-9a0e-0c8f6f1f2a3c")


def test_events(fisk: Command) -> None:
    fisk("create", "a", "1M")
    listed = fisk.json("event", "list", "--kind", "fisk")
    assert listed[-1]["Kind"] == "fisk.created"
    after = str(listed[-1]["Number"])
    process = fisk.start("event", "list", "--follow", "--after", after, "-f", "json")
    try:
        fisk("set", "a", "--role", "image")
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert (told["kind"], told["num"]) == ("fisk.changed", int(after) + 1)
    finally:
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert (process.returncode, complaints) == (128 + signal.SIGINT, "")
    moment = datetime.fromisoformat(told["at"])
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=5)


def test_openstack_plugin(fisk: Command, fiskd: Fiskd, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("openstack")
    if not program.exists():
        pytest.skip("python-openstackclient is not installed")
    fisk("create", "a", "1M")
    elsewhere = Command(tmp_path)
    elsewhere.program = (str(program),)
    elsewhere.environment.pop("PYTHONWARNINGS")
    made = elsewhere.json("--fisk-url", fiskd.url, "fisk", "attach", "a")
    assert made["uris"]
    elsewhere("--fisk-url", fiskd.url, "fisk", "detach", made["id"])


def test_commands_ride_out_a_restart(home: Path) -> None:
    with running(home) as daemon:
        fisk = Command(home)
        daemon.kill()
        process = fisk.start("--url", daemon.url, "create", "a", "1M")
        time.sleep(0.2)
        daemon.start()
        _, complaints = process.communicate(timeout=60)
        assert (process.returncode, complaints) == (0, "")
        assert [each["Name"] for each in fisk.json("list")] == ["a"]
