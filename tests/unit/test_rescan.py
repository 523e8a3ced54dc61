# SPDX-License-Identifier: Apache-2.0
import errno
import os

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import AlreadyExists, NotFound, PoolError
from fisk_core.services import headers, settle
from tests.engines import BLOCK, MIB, TINY, make_volume, read, write


def lose_catalog(home):
    for path in home.glob("catalog.sqlite*"):
        path.unlink()


def everything(engine):
    return [
        (fisk.id, fisk.name, fisk.size, fisk.state, fisk.role, fisk.parent_id, dict(fisk.attributes))
        for fisk in sorted(engine.list(), key=lambda each: each.name)
    ]


def contents(engine):
    return {fisk.name: read(engine, fisk.name, 0, min(fisk.size, MIB)) for fisk in engine.list()}


@pytest.fixture
def home(tmp_path):
    """A home with one Fisk of each kind."""
    with Engine.open(tmp_path) as engine:
        make_volume(engine, content=b"one")
        engine.snapshot("volume", "s1", attributes={"k": "v"})
        write(engine, "volume", BLOCK, b"two")
        engine.settle()
        engine.snapshot("volume", "s2", role="image")
        write(engine, "volume", 2 * BLOCK, b"three")
        engine.clone("s1", "untouched", size=2 * MIB)
        engine.clone("s2", "touched")
        write(engine, "touched", 0, b"ONE")
        make_volume(engine, "empty")
        engine.resize("touched", MIB // 2, shrink=True)
    return tmp_path


def test_all_comes_back(home):
    with Engine.open(home) as engine:
        before, bytes_before = everything(engine), contents(engine)
    lose_catalog(home)
    with Engine.open(home) as engine:
        report = engine.rescan("default")
        assert report.damaged == report.recovered == []
        assert sorted(report.fisks) == [row[1] for row in before]
        assert everything(engine) == before
        assert contents(engine) == bytes_before
        engine.settle()
        assert engine.check().problems == []
        assert contents(engine) == bytes_before


def test_life_goes_on_after_it(home):
    lose_catalog(home)
    with Engine.open(home) as engine:
        engine.rescan("default")
        write(engine, "volume", 0, b"uno")
        write(engine, "untouched", 2 * MIB - 1, b"x")
        engine.snapshot("volume", "s3")
        engine.delete("s1", "s2")
        engine.settle()
        assert read(engine, "volume", 0, 2 * BLOCK + 5)[:: 2 * BLOCK] == b"ut"
        assert read(engine, "touched", 0, 3) == b"ONE"
        engine.delete(*[fisk.name for fisk in engine.list()])
        assert engine.check().problems == []
        assert [path for path in (home / "pools" / "default" / "layers").rglob("*") if path.is_file()] == []


def test_epochs_do_not_fall(home):
    from fisk_core.catalog import leases

    lose_catalog(home)
    with Engine.open(home) as engine:
        engine.rescan("default")
        write(engine, "volume", 0, b"x")
        with engine.catalog.read() as conn:
            assert leases.epoch(conn, engine.get("volume").id) > 1_000_000


def test_headers_older_than_the_logs(home):
    """What was written after the last header was published is there all the same."""
    with Engine.open(home) as engine:
        stale = engine.home.pool("default") / "blobs" / "fisks" / engine.get("volume").id
        old = stale.read_bytes()
        engine.snapshot("volume", "s3")
        write(engine, "volume", 0, b"neo")
        engine.snapshot("volume", "s4")
        write(engine, "volume", 0, b"NEW")
        engine.settle()
        stale.write_bytes(old)
        for name in ("s3", "s4"):
            (stale.parent / engine.get(name).id).unlink()
    lose_catalog(home)
    with Engine.open(home) as engine:
        engine.rescan("default")
        assert read(engine, "volume", 0, 2 * BLOCK + 5) == (
            b"NEW".ljust(BLOCK, b"\0") + b"two".ljust(BLOCK, b"\0") + b"three"
        )
        assert engine.check().ok


def test_a_fisk_whose_header_was_never_written_is_recovered(tmp_path, monkeypatch):
    monkeypatch.setattr(settle, "publish", lambda *_: None)
    with Engine.open(tmp_path) as engine:
        make_volume(engine, content=b"precious")
        make_volume(engine, "frozen", content=b"also")
        engine.set("frozen", frozen=True)
    monkeypatch.undo()
    lose_catalog(tmp_path)
    with Engine.open(tmp_path) as engine:
        report = engine.rescan("default")
        assert len(report.recovered) == 2
        assert {read(engine, name, 0, 8) for name in report.recovered} == {b"precious", b"also\0\0\0\0"}
        assert engine.check().errors == []


def test_damage_is_reported_and_the_rest_comes_back(home):
    with Engine.open(home) as engine:
        victim = engine.get("s2")
    path = home / "pools" / "default" / "blobs" / "fisks" / victim.id
    path.write_bytes(path.read_bytes() + b"!")
    lose_catalog(home)
    with Engine.open(home) as engine:
        report = engine.rescan("default")
        assert [victim.id in each for each in report.damaged] == [True]
        assert "s2" not in report.fisks
        assert "volume" in report.fisks


@pytest.mark.parametrize("of", ["blobs/fisks", "blobs/maps", "logs"])
def test_what_cannot_be_read_now_may_be_read_later(home, of, monkeypatch):
    """Nothing is taken over then: without its header a Fisk would come back as another, for good."""
    before = opened = None

    def refuse(path, *arguments, **named):
        if of in str(path) and not str(path).endswith(".new"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return opened(path, *arguments, **named)

    with Engine.open(home) as engine:
        before = everything(engine)
    lose_catalog(home)
    with Engine.open(home) as engine:
        with monkeypatch.context() as patched:
            opened = os.open
            patched.setattr(os, "open", refuse)
            with pytest.raises(PoolError, match="Input/output error"):
                engine.rescan("default")
        assert engine.list() == []
        assert engine.rescan("default").damaged == []
        assert everything(engine) == before


def test_by_force_what_cannot_be_read_is_left_out(home, monkeypatch):
    with Engine.open(home) as engine:
        victim, names = engine.get("s2"), {fisk.name for fisk in engine.list()}
    lose_catalog(home)
    usual = os.open

    def refuse(path, *arguments, **named):
        if victim.id in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return usual(path, *arguments, **named)

    with Engine.open(home) as engine, monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        report = engine.rescan("default", force=True)
        assert [victim.id in each for each in report.damaged] == [True]
        assert {*report.fisks} == names - {"s2"}


def test_a_catalog_that_has_fisks_is_left_alone(home):
    with Engine.open(home) as engine:
        before = everything(engine)
        with pytest.raises(AlreadyExists, match="forced"):
            engine.rescan("default")
        report = engine.rescan("default", force=True)
        assert report.fisks == report.recovered == []
        assert everything(engine) == before


def test_names_taken_meanwhile_do_not_collide(home):
    lose_catalog(home)
    with Engine.open(home) as engine:
        engine.create_pool("other")
        engine.create("volume", MIB, pool="other", **TINY)
        report = engine.rescan("default")
        (renamed,) = [name for name in report.fisks if name.startswith("volume-")]
        assert read(engine, renamed, 0, 3) == b"one"


def test_pools_elsewhere_are_found_by_their_options(tmp_path):
    options = {"path": str(tmp_path / "far")}
    with Engine.open(tmp_path / "home") as engine:
        engine.create_pool("far", options=options)
        engine.create("a", MIB, pool="far", **TINY)
        write(engine, "a", 0, b"far")
    lose_catalog(tmp_path / "home")
    with Engine.open(tmp_path / "home") as engine:
        with pytest.raises(NotFound):
            engine.rescan("far")
        assert engine.rescan("far", options=options).fisks == ["a"]
        assert read(engine, "a", 0, 3) == b"far"


def test_a_default_pool_without_a_catalog_is_not_begun_anew(home):
    lose_catalog(home)
    with Engine.open(home) as engine, pytest.raises(AlreadyExists, match="rescan"):
        make_volume(engine, "new")


def test_headers_notice_damage():
    from fisk_core.errors import Corrupt, Unsupported

    good = b'fisk-header 1 00000000\n{"id": 1}'
    for data, error in [
        (b"", Corrupt),
        (b"something else\n{}", Corrupt),
        (good, Corrupt),
        (good.replace(b" 1 ", b" 2 "), Unsupported),
    ]:
        with pytest.raises(error):
            headers.decode(data, "fisks/x")
