# SPDX-License-Identifier: Apache-2.0
"""One pass of the collector in small: what it looks at, leaves for later, waits for, and tells."""

import logging
import uuid

import pytest

from fisk_core import errors, locks
from fisk_core.catalog import attachments, maps, schema
from fisk_core.catalog.attachments import AttachmentRow
from fisk_core.dataplane import control
from fisk_core.engine import Engine
from fisk_core.pools import Kind
from fisk_core.services import collector
from fisk_core.services.meter import Meter

BLOCK = 4096  # what a file system gives back
SEGMENT = 1024 * 4 * BLOCK
SIZE = SEGMENT + 40 * BLOCK
PAGES = {"block_size": BLOCK, "page_size": 4 * BLOCK}


@pytest.fixture
def engine(home):
    with Engine.open(home) as engine:
        yield engine


def write(engine, name, *blocks, byte=b"x"):
    with engine.open_disk(name, writable=True) as disk:
        for block in blocks:
            disk.write(block * BLOCK, byte * BLOCK)


def begin(engine, name="disk", blocks=(0, 1, 2, 1030, 4100)):
    """Make a Fisk and a snapshot of it with ``blocks``; gives the layer they are in."""
    engine.create(name, SIZE, **PAGES)
    write(engine, name, *blocks)
    engine.snapshot(name, f"{name}-old")
    engine.settle()
    return engine.get(f"{name}-old").map_id


def stored(engine, layer):
    """Give the blocks of a layer that take space."""
    with engine.open_pool("default").open_device(Kind.LAYER, layer, writable=False) as device:
        extents = list(device.data_extents(0, device.size))
    return {at // BLOCK for start, length in extents for at in range(start, start + length, BLOCK)}


def suspects(engine):
    with engine.catalog.read() as conn:
        return set(maps.suspects(conn, "default"))


def overwrite(engine, name, *blocks):
    """Make blocks of the layer below useless: overwritten, and the snapshot that had them gone."""
    write(engine, name, *blocks, byte=b"y")
    engine.delete(f"{name}-old")
    engine.settle()


@pytest.mark.parametrize("seen_by", ["itself", "its base", "the period on top", "a Fisk", "nobody"])
def test_as_much_of_a_map_is_looked_at_as_anybody_sees(engine, seen_by):
    """What is beyond may be given back, so each of them must count alone."""
    layer = begin(engine)
    sizes = dict.fromkeys(("itself", "its base", "the period on top", "a Fisk"), 0)
    if seen_by in sizes:
        sizes[seen_by] = 5 * BLOCK
    ours, on_top = schema.maps.c.id == layer, schema.maps.c.base == layer
    with engine.catalog.change() as conn:
        own = {"size": sizes["itself"] or None, "base_size": sizes["its base"]}
        conn.execute(schema.maps.update().where(ours).values(own))
        conn.execute(schema.maps.update().where(on_top).values(base_size=sizes["the period on top"]))
        pointing = schema.fisks.c.map_id == layer
        assert conn.execute(schema.fisks.update().where(pointing).values(size=sizes["a Fisk"])).rowcount == 1
        assert len(maps.children(conn, layer)) == 1
        row = maps.find(conn, layer)
        assert collector._size_seen(conn, row) == (0 if seen_by == "nobody" else 5 * BLOCK)


def test_what_nobody_points_to_goes_and_nothing_else(engine):
    layer = begin(engine)
    overwrite(engine, "disk", 1, 4100, 7)
    assert suspects(engine) == {layer}
    told = engine.collect(dry_run=True)
    assert (told.reclaimed, told.layers, told.skipped, told.dry_run) == (2 * BLOCK, 1, {}, True)
    assert stored(engine, layer) == {0, 1, 2, 1030, 4100}, "a dry run only counts"
    done = engine.collect()
    assert (done.reclaimed, done.layers, done.skipped, done.dry_run) == (2 * BLOCK, 1, {}, False)
    assert stored(engine, layer) == {0, 2, 1030}
    assert suspects(engine) == {layer}, "what is written on top of it may hide more of it"
    engine.snapshot("disk", "new")
    engine.settle()
    engine.collect()
    assert suspects(engine) == set()
    assert engine.collect().layers == 0
    with engine.open_disk("new") as disk:
        assert [disk.read(block * BLOCK, 1) for block in (0, 1, 2, 3, 7, 1030, 4100)] == [
            b"x", b"y", b"x", b"\0", b"y", b"x", b"y"
        ]  # fmt: skip


def test_a_smaller_fisk_hides_the_end_of_its_base(engine):
    layer = begin(engine)
    engine.clone("disk-old", "small")
    engine.resize("small", 3 * BLOCK, shrink=True)
    for name in ("disk", "disk-old"):
        engine.delete(name)
    engine.settle()
    engine.collect()
    assert stored(engine, layer) == {0, 1, 2}


@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_any_number_of_layers(engine, monkeypatch, at_once):
    monkeypatch.setattr(collector, "_LAYERS_AT_ONCE", at_once)
    layers = [begin(engine, f"d{number}", (number, 9, 4100)) for number in range(3)]
    for number in range(3):
        overwrite(engine, f"d{number}", 9)
    calls = []
    report = engine.collect(progress=lambda done, total: calls.append((done, total)))
    assert (report.layers, report.reclaimed) == (3, 3 * BLOCK)
    assert [stored(engine, layer) for layer in layers] == [{0, 4100}, {1, 4100}, {2, 4100}]
    total = 4101 * BLOCK * -(-3 // at_once)
    assert {each for _, each in calls} == {total}
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[0][0] == SEGMENT
    assert calls[-1] == (total, total)


def test_who_cancels_keeps_what_was_given_back(engine, monkeypatch):
    layer = begin(engine)
    overwrite(engine, "disk", 1, 4100)

    def once(done, total):
        raise errors.Cancelled("enough")

    with pytest.raises(errors.Cancelled, match="enough"):
        engine.collect(progress=once)
    assert stored(engine, layer) == {0, 2, 1030, 4100}, "one segment was done"
    assert suspects(engine) == {layer}
    assert engine.collect().reclaimed == BLOCK


def test_a_damaged_map_leaves_its_layers_for_later(engine, home, caplog):
    caplog.set_level(logging.INFO, "fisk_core")
    layer = begin(engine)
    engine.clone("disk-old", "other")
    overwrite(engine, "disk", 1)
    path = home / "pools" / "default" / "blobs" / "maps" / layer
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    for dry_run in (True, False):
        report = engine.collect(dry_run=dry_run)
        assert (report.layers, report.reclaimed) == (0, 0)
        assert list(report.skipped) == [layer]
        assert f"maps/{layer} does not match its checksum" in report.skipped[layer]
        assert "left 1 layers for later: segment" in caplog.text
    assert stored(engine, layer) == {0, 1, 2, 1030, 4100}
    path.write_bytes(good)
    engine.delete("other")
    engine.settle()
    assert (engine.collect().reclaimed, stored(engine, layer)) == (BLOCK, {0, 2, 1030, 4100})


def test_a_layer_that_cannot_be_opened_is_left_for_later(engine, home):
    layer = begin(engine)
    overwrite(engine, "disk", 1)
    [path] = (home / "pools" / "default" / "layers").rglob(layer)
    path.rename(path.with_name("away"))
    report = engine.collect()
    assert (report.layers, list(report.skipped)) == (0, [layer])
    path.with_name("away").rename(path)
    assert engine.collect().layers == 1


def test_one_collector_at_a_time_and_none_while_logs_are_trimmed(engine, monkeypatch):
    layer = begin(engine)
    overwrite(engine, "disk", 1)
    with locks.acquire(engine.home.lock_path / "collector.lock"), pytest.raises(errors.InUse):
        engine.collect()
    monkeypatch.setattr(collector, "_TRIMMING_SECONDS", 0.01)
    with locks.acquire(engine.home.trimming):
        assert list(engine.collect().skipped) == [layer]
    with locks.acquire(engine.home.trimming, shared=True):
        assert list(engine.collect().skipped) == [layer], "trimming shares it with others of its kind"
    assert engine.collect().layers == 1


def test_a_log_is_durable_before_its_word_is_taken_and_its_worker_passes_a_barrier(engine, monkeypatch):
    """A block overwritten by what is not durable yet may have to be read again after a crash."""
    layer = begin(engine)
    overwrite(engine, "disk", 1)
    steps, pool = [], engine.open_pool("default")
    live = engine.get("disk").map_id
    kind_of = type(pool.open_device(Kind.LOG, live, writable=False))

    def spy(name):
        real = getattr(kind_of, name)

        def call(device, *arguments):
            steps.append((name, device.path.split("/")[0].split(" ")[0], arguments))
            return real(device, *arguments)

        monkeypatch.setattr(kind_of, name, call)

    def barrier(path, request):
        steps.append((request["op"], str(path), ()))
        raise errors.NotFound("nobody serves it")

    spy("flush")
    spy("discard")
    monkeypatch.setattr(control, "call", barrier)
    assert engine.collect().reclaimed == BLOCK
    assert [name for name, _, _ in steps][:2] == ["flush", "barrier"]
    assert {name for name, _, _ in steps[2:]} == {"discard"}
    assert steps[1][1] == str(engine.home.control(engine.get("disk").id))
    assert stored(engine, layer) == {0, 2, 1030, 4100}


@pytest.mark.parametrize("host", ["elsewhere", "mine"])
def test_a_worker_of_another_host_is_not_asked_and_keeps_everything(engine, host):
    layer = begin(engine)
    overwrite(engine, "disk", 1, 7)
    host = engine.settings.host if host == "mine" else host
    row = AttachmentRow(str(uuid.uuid4()), engine.get("disk").id, host, "nbd", False, 1, "test", {})
    with engine.catalog.change() as conn:
        attachments.add(conn, row)
    done = engine.collect()
    if host == "elsewhere":
        assert (done.reclaimed, stored(engine, layer)) == (0, {0, 1, 2, 1030, 4100})
        assert [*done.skipped] == [layer]
        assert "served on elsewhere" in done.skipped[layer]
    else:  # its worker is gone, or about to come: nobody reads
        assert (done.reclaimed, done.skipped) == (BLOCK, {})


def test_a_worker_that_refuses_the_barrier_keeps_everything(engine, monkeypatch):
    layer = begin(engine)
    overwrite(engine, "disk", 1)

    def refuse(*_):
        raise errors.PoolError("it went away")

    monkeypatch.setattr(control, "call", refuse)
    assert engine.collect().skipped == {layer: "it went away"}
    assert stored(engine, layer) == {0, 1, 2, 1030, 4100}


def test_layers_no_map_names_any_more_are_not_touched(engine):
    """They are deleted as a whole, by whoever dropped the last map."""
    layer = begin(engine)
    report = collector.CollectReport()
    with engine.open_pool("default").open_device(Kind.LAYER, layer, writable=True) as device:
        collector._sweep([], {layer: device}, report, Meter(None))
    assert (report.reclaimed, len(stored(engine, layer))) == (0, 5)
