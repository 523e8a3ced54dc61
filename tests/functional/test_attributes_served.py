# SPDX-License-Identifier: Apache-2.0
"""Class and limits as attributes: what is refused, where a Fisk goes, what its worker hears of changes."""

import subprocess

import pytest

from fisk_core.dataplane import control
from fisk_core.errors import InvalidValue
from tests.engines import MIB, make_volume, serving


@pytest.mark.parametrize(
    "attributes",
    [{"class": "gold"}, {"qos.iops": "5"}, {"qos.read_iops": "many"}, {"qos.read_iops_burst": "5"}],
)
def test_attributes_nobody_could_act_upon_are_refused(engine, attributes):
    with pytest.raises(InvalidValue):
        engine.create("bad", MIB, attributes=attributes)
    volume = make_volume(engine)
    with pytest.raises(InvalidValue):
        engine.set("volume", attributes=attributes)
    assert engine.get("volume").attributes == volume.attributes == {}


def test_limits_are_checked_together_with_those_there(engine):
    engine.create("volume", MIB, attributes={"qos.read_iops": "5"})
    engine.set("volume", attributes={"qos.read_iops_burst": "9"})
    with pytest.raises(InvalidValue):
        engine.set("volume", attributes={"qos.read_iops": None})
    engine.set("volume", attributes={"qos.read_iops": None, "qos.read_iops_burst": None})
    assert engine.get("volume").attributes == {}


def test_a_worker_begins_with_the_attributes_and_hears_of_changes(engine):
    volume = engine.create("volume", MIB, attributes={"class": "scratch", "colour": "red"})

    def acted_upon():
        return control.call(engine.home.control(volume.id), {"op": "status"})["attributes"]

    with serving(engine, "volume") as (_, client):
        assert acted_upon() == {"class": "scratch", "colour": "red"}
        engine.set("volume", attributes={"class": None, "qos.total_iops": "5000"})
        assert acted_upon() == {"colour": "red", "qos.total_iops": "5000"}
        engine.snapshot("volume", "before")
        assert acted_upon() == {"colour": "red", "qos.total_iops": "5000"}
        client.write(0, bytes(MIB))
        engine.set("volume", attributes={"colour": "blue"})  # tells the worker nothing
        assert acted_upon()["colour"] == "red"


def test_a_fisk_goes_to_the_pool_for_its_class(engine, home, tmp_path):
    engine.create_pool("fast", options={"classes": "latency, throughput"})
    engine.create_pool("loose", options={"classes": "scratch,latency"})
    assert engine.pool("fast").options["classes"] == "latency,throughput"

    def pool_of(name, **options):
        return engine.create(name, MIB, **options).pool

    assert pool_of("a") == pool_of("b", attributes={"class": "background"}) == engine.settings.default_pool
    assert pool_of("c", attributes={"class": "latency"}) == "fast"
    assert pool_of("d", attributes={"class": "scratch"}) == "loose"
    assert pool_of("e", attributes={"class": "scratch"}, pool="fast") == "fast"
    image = tmp_path / "image"
    image.write_bytes(b"x" * 4096)
    assert engine.import_image(image, "f", attributes={"class": "scratch"}).pool == "loose"


@pytest.mark.parametrize("driver", ["raw", "qcow2"])
def test_the_original_of_an_image_goes_where_the_image_goes(engine, tmp_path, driver):
    engine.create_pool("loose", options={"classes": "scratch"})
    subprocess.run(["qemu-img", "create", "-q", "-f", driver, tmp_path / "image", "1M"], check=True)
    labels = {"class": "scratch"}
    image = engine.import_image(tmp_path / "image", "image", keep_original=True, attributes=labels)
    original = engine.get("image.original")
    assert image.pool == original.pool == "loose"
    assert original.attributes["class"] == "scratch"
    assert original.attributes["fisk:image"] == image.id
    engine.import_image(tmp_path / "image", "plain", keep_original=True)
    assert engine.get("plain.original").pool == engine.get("plain").pool == engine.settings.default_pool
    assert "class" not in engine.get("plain.original").attributes


def test_asked_for_again_it_is_the_same_wherever_it_would_go_now(engine):
    fisk_id = "7a6f0a52-0f3c-4d5b-9a66-0d8f3c1b2a77"
    first = engine.create("a", MIB, attributes={"class": "scratch"}, id=fisk_id)
    engine.create_pool("loose", options={"classes": "scratch"})
    assert engine.create("a", MIB, attributes={"class": "scratch"}, id=fisk_id) == first
