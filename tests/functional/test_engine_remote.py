# SPDX-License-Identifier: Apache-2.0
"""A daemon's client does what every engine must, and what only a daemon can."""

import io
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fisk_core import errors
from fisk_core.client import RemoteEngine, disks
from fisk_core.client.disks import connect
from fisk_core.client.transport import Patience
from fisk_core.model import JobState, Retention
from fisk_core.services.importer import IMAGE, ORIGINAL
from fisk_core.testing.engine_conformance import DATA, MIB, EngineConformance, read, write
from tests.fiskds import Fiskd, running

MISSING = "6f1c9a52-7d1e-4a55-9a0e-0c8f6f1f2a3b"


@pytest.fixture(scope="module")
def allowed() -> Iterator[Path]:
    """A directory jobs may use."""
    with tempfile.TemporaryDirectory(prefix="fisk-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def fiskd(allowed: Path) -> Iterator[Fiskd]:
    """A daemon that answers in small pages."""
    with (
        tempfile.TemporaryDirectory(prefix="fisk-") as folder,
        running(Path(folder), jobs={"directories": allowed}, api={"max_page": 40}) as daemon,
    ):
        yield daemon


@pytest.fixture
def engine(fiskd: Fiskd) -> Iterator[RemoteEngine]:
    with RemoteEngine.open(fiskd.url) as remote:
        yield remote
        for attachment in remote.attachments():
            remote.detach(attachment.id, force=True)
        while found := remote.list():
            remote.delete(*(each.id for each in found[:200]), force=True)


class TestRemote(EngineConformance):
    pass


# Attachments


def test_attach_and_detach(engine: RemoteEngine) -> None:
    fisk = engine.create("a", MIB)
    made = engine.attach("a", consumer="guest", id=MISSING)
    assert (made.id, made.fisk_id, made.consumer, made.read_only) == (MISSING, fisk.id, "guest", False)
    assert engine.attach("a", consumer="guest", id=MISSING) == made
    assert engine.attachment(MISSING) == made
    assert engine.attachments() == engine.attachments(fisk="a", host=made.host) == [made]
    assert engine.served_at(fisk) == list(made.uris)
    (worker,) = engine.workers()
    assert worker["fisk_id"] == fisk.id
    with connect(made.uris, None) as client:
        client.write(0, b"attached")
        client.flush()
        engine.snapshot("a", "s")
    with pytest.raises(errors.InUse):
        engine.delete("a")
    engine.detach(MISSING)
    engine.detach(MISSING)
    with pytest.raises(errors.NotFound):
        engine.attachment(MISSING)
    assert engine.attachments(fisk="a") == []
    assert read(engine, "a", 0, 8) == read(engine, "s", 0, 8) == b"attached"


def test_a_frozen_fisk_is_attached_for_reading(engine: RemoteEngine) -> None:
    engine.create("a", MIB)
    engine.snapshot("a", "s")
    with pytest.raises(errors.ReadOnly):
        engine.attach("s")
    one, two = engine.attach("s", read_only=True), engine.attach("s", read_only=True)
    assert one.id != two.id
    with connect(one.uris, None) as first, connect(two.uris, None) as second:
        assert first.read(0, 10) == second.read(0, 10) == bytes(10)


def test_a_disk_detaches_when_closed(engine: RemoteEngine) -> None:
    engine.create("a", MIB)
    with engine.open_disk("a", writable=True):
        assert len(engine.attachments(fisk="a")) == 1
    assert engine.attachments() == []
    engine.set("a", frozen=True)
    with pytest.raises(errors.ReadOnly):
        engine.open_disk("a", writable=True)
    assert engine.attachments() == []


def test_threads_open_disks_side_by_side(engine: RemoteEngine) -> None:
    engine.create("a", MIB)
    engine.clone("a", "c", count=4)

    def work(name: str) -> None:
        write(engine, name, 0, name.encode())

    threads = [threading.Thread(target=work, args=(f"c-{number}",)) for number in range(1, 5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [read(engine, f"c-{number}", 0, 3) for number in range(1, 5)] == [b"c-1", b"c-2", b"c-3", b"c-4"]


def test_bytes_over_tcp(engine: RemoteEngine) -> None:
    """As from another host, where the socket of a worker cannot be reached."""
    engine.create("a", MIB)
    made = engine.attach("a")
    tcp = [uri for uri in made.uris if uri.startswith("nbd://")]
    with connect(tcp, None) as client:
        client.write(0, b"over tcp")
        client.flush()
        assert client.read(0, 8) == b"over tcp"
    engine.detach(made.id)
    with pytest.raises(errors.FiskError):
        connect(tcp, None)
    with pytest.raises(errors.Unavailable):
        connect(["nbd+unix:///a?socket=/nowhere"], None)
    begun = engine.transport.call("POST", "/builds", json={"name": "b", "size": MIB})
    with connect(begun["uris"][1:], None) as client:
        client.write(0, DATA)
    built = engine.show_build(begun["fisk_id"], size=MIB, frozen=True, attributes=None)
    assert engine.show_build(begun["fisk_id"], size=MIB, frozen=True, attributes=None) == built
    assert read(engine, "b") == DATA
    with pytest.raises(errors.FiskError):
        connect(begun["uris"][1:], None)


# Jobs


def test_a_job_is_watched(engine: RemoteEngine) -> None:
    job = engine.jobs.submit("collect", {"dry_run": True}, id=MISSING)
    assert job.id == MISSING
    assert engine.jobs.submit("collect", {"dry_run": True}, id=MISSING).id == MISSING
    over = engine.jobs.wait(MISSING, 30)
    assert (over.state, over.result["dry_run"]) == (JobState.DONE, True)
    assert MISSING in [each.id for each in engine.jobs.list(kind="collect", state="done")]
    assert engine.jobs.cancel(MISSING).state is JobState.DONE
    with pytest.raises(errors.InvalidValue):
        engine.jobs.submit("nonsense", {})
    with pytest.raises(errors.NotFound):
        engine.jobs.get("6f1c9a52-7d1e-4a55-9a0e-0c8f6f1f2a3c")


@pytest.mark.parametrize("every", [MIB, 1 << 40])
def test_a_stream_that_is_not_raw_is_stored_as_it_came_too(
    engine: RemoteEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(disks, "_FLUSH_EVERY", every)  # durable while it arrives, or at the end alone
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(random.Random(4).randbytes(9 * MIB) + bytes(MIB) + b"end")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", plain, packed], check=True)
    stream = io.BytesIO(packed.read_bytes())
    made = engine.import_image(stream, "i", attributes={"x": "y"}, twin={"its": "own"})
    original = engine.get(made.attributes[ORIGINAL])
    assert (original.name, original.attributes["its"], original.attributes[IMAGE]) == (
        "i.original", "own", made.id,
    )  # fmt: skip
    for name, content in (("i", plain.read_bytes()), ("i.original", packed.read_bytes())):
        target = io.BytesIO()
        engine.download(name, target)
        assert target.getvalue().rstrip(b"\0") == content.rstrip(b"\0")
    assert not engine.check().problems


def test_a_stream_that_turns_out_to_be_no_image_leaves_nothing(engine: RemoteEngine, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", packed, "10M"], check=True)
    cut = io.BytesIO(packed.read_bytes()[: 64 << 10] + bytes(MIB))
    with pytest.raises(errors.ImageRefused):
        engine.import_image(cut, "i", twin={"its": "own"})
    assert engine.list() == []
    engine.import_image(io.BytesIO(packed.read_bytes()), "i", twin={"its": "own"})


def test_import_and_download_by_the_daemon(engine: RemoteEngine, allowed: Path, tmp_path: Path) -> None:
    source, target = allowed / "source", allowed / "target"
    source.write_bytes(DATA)
    seen: list[int] = []
    made = engine.import_image(
        source, "i", on_server=True, attributes={"x": "y"}, progress=lambda done, total: seen.append(done)
    )
    assert (made.name, made.size, made.frozen, dict(made.attributes)) == ("i", MIB, True, {"x": "y"})
    engine.download("i", target, on_server=True)
    assert target.read_bytes() == DATA
    (tmp_path / "elsewhere").write_bytes(DATA)
    with pytest.raises(errors.Forbidden):
        engine.import_image(tmp_path / "elsewhere", "j", on_server=True)
    with pytest.raises(errors.AlreadyExists):
        engine.import_image(source, "i", on_server=True)
    for verb in (engine.import_image, engine.download):
        with pytest.raises(errors.InvalidValue):
            verb(io.BytesIO(), "i", on_server=True) if verb == engine.import_image else verb(
                "i", io.BytesIO(), on_server=True
            )


# Range locks


def test_locks(engine: RemoteEngine) -> None:
    engine.create("a", MIB)
    locks = engine.locks
    one = locks.acquire("a", 0, 4096, owner="one")
    assert locks.list("a") == [one]
    with pytest.raises(errors.InUse, match="one"):
        locks.acquire("a", 0, 1)
    two = locks.acquire("a", 8192, 10, shared=True)
    assert locks.acquire("a", 8192, 10, shared=True).id != two.id
    assert locks.renew(one.id, ttl=60).expires > one.expires
    locks.release(one.id)
    locks.release(one.id)
    with pytest.raises(errors.NotFound):
        locks.renew(one.id)


def test_a_lock_is_waited_for_and_renewed_while_held(engine: RemoteEngine) -> None:
    engine.create("a", MIB)
    waiting = threading.Event()
    granted: list[float] = []

    def wait() -> None:
        waiting.set()
        lock = engine.locks.acquire("a", 0, 10, wait=30)
        granted.append(time.monotonic())
        engine.locks.release(lock.id)

    with engine.locks.held("a", 0, 10, ttl=0.6, owner="holder") as held:
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(10)
        before = held.lock.expires
        deadline = time.monotonic() + 30
        while held.lock.expires <= before + timedelta(seconds=0.7):
            assert time.monotonic() < deadline
            held.check()
            time.sleep(0.05)
        assert not granted
        ended = time.monotonic()
    thread.join(30)
    assert granted[0] >= ended


def test_a_lock_that_was_lost_is_told(engine: RemoteEngine) -> None:
    engine.create("a", MIB)

    def work() -> None:
        with engine.locks.held("a", 0, 10, ttl=0.3) as held:
            engine.locks.release(held.lock.id)
            deadline = time.monotonic() + 30
            while not held.lost:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    with pytest.raises(errors.InUse, match="was lost"):
        work()


# Schedules, tokens, events


def test_schedules(engine: RemoteEngine) -> None:
    fisk = engine.create("a", MIB)
    later = datetime.now(UTC) + timedelta(days=1)
    kept = Retention(last=3, daily=7)
    made = engine.schedules.create(
        "a", 3600, retention=kept, prefix="hourly", expire=86400, start=later, id=MISSING
    )
    assert (made.id, made.fisk_id, made.interval, made.retention) == (MISSING, fisk.id, 3600, kept)
    assert abs(made.next_run - later) < timedelta(seconds=1)
    assert engine.schedules.get(MISSING) == made
    assert engine.schedules.list("a") == [made]
    changed = engine.schedules.set(MISSING, enabled=False, expire=None, retention=Retention(weekly=1))
    assert (changed.enabled, changed.expire, changed.retention) == (False, None, Retention(weekly=1))
    assert changed.interval == 3600
    engine.schedules.delete(MISSING)
    engine.schedules.delete(MISSING)
    assert engine.schedules.list() == []


def test_tokens(engine: RemoteEngine) -> None:
    token, secret = engine.tokens.create("backup", "reader", seconds=3600)
    assert (token.name, token.role) == ("backup", "reader")
    assert secret
    with pytest.raises(errors.AlreadyExists):
        engine.tokens.create("backup", "reader")
    with RemoteEngine.open(engine.url, secret) as reader:
        assert reader.about()["role"] == "reader"
        assert reader.list() == []
        with pytest.raises(errors.Forbidden):
            reader.create("a", MIB)
    assert "backup" in [each.name for each in engine.tokens.list()]
    engine.tokens.delete("backup")
    engine.tokens.delete("backup")
    with RemoteEngine.open(engine.url, secret) as nobody, pytest.raises(errors.Unauthenticated):
        nobody.list()


def test_events(engine: RemoteEngine) -> None:
    begun = threading.Event()
    seen: list[str] = []

    def follow() -> None:
        events = engine.events(after=0)
        for event in events:
            seen.append(event.kind)
            if event.fisk_id in made:
                begun.set()
                break
        events.close()

    made: list[str] = []
    made.append(engine.create("a", MIB).id)
    thread = threading.Thread(target=follow)
    thread.start()
    assert begun.wait(30)
    thread.join()
    assert seen[-1] == "fisk.created"


# A daemon that goes away


def test_a_client_rides_out_a_restart(home: Path) -> None:
    """Events go on, and requests made meanwhile are answered."""
    patience = Patience(total=60, connect=60)
    with running(home) as daemon, RemoteEngine.open(daemon.url, patience=patience) as engine:
        engine.create("a", MIB)
        with engine.open_disk("a", writable=True) as disk:
            disk.write(0, b"before")
            events = engine.events(after=0)
            assert next(events).kind == "fisk.created"
            daemon.kill()
            disk.write(6, b"during")
            disk.flush()
            made: list[str] = []
            thread = threading.Thread(target=lambda: made.append(engine.snapshot("a", "s").name))
            thread.start()
            daemon.start()
            thread.join()
            assert made == ["s"]
            fisk_id = engine.create("b", MIB).id
            while next(events).fisk_id != fisk_id:
                pass
            events.close()
        assert read(engine, "s", 0, 12) == b"beforeduring"
