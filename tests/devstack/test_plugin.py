# SPDX-License-Identifier: Apache-2.0
"""The plugin of DevStack: every phase, run by ``drive.sh`` as stack.sh, unstack.sh and clean.sh would.

With ``DEVSTACK_DIR``, a checkout of DevStack, its own function library runs the phases; else functions of
ours, written after what its manual promises to plugins.  fiskd is the real one either way.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fisk_core.client import RemoteEngine
from tests.devstack.sites import HERE, STACK, Site

# Shell programs start hundreds of small ones: on a busy machine that takes a while.
pytestmark = pytest.mark.timeout(600)
FILES = (
    "glance/glance-api.conf",
    "nova/nova.conf",
    "cinder/cinder.conf",
    "fisk/fisk.conf",
    "tempest/tempest.conf",
)


@pytest.fixture
def site(home: Path) -> Iterator[Site]:
    made = Site(home)
    yield made
    made.drive("clean")


@pytest.fixture(scope="module")
def stacked() -> Iterator[Site]:
    """A site where all phases of stack were run; tests only look at it."""
    with tempfile.TemporaryDirectory(prefix="fisk-") as directory:
        made = Site(Path(directory))
        made.drive(*STACK)
        yield made
        made.drive("clean")


def reach(site: Site) -> dict[str, str]:
    """Give the options that lead to the daemon of a site."""
    return {"fisk_url": site.url, "fisk_pool": "default"}


class TestWhatIsWritten:
    def test_for_volumes_and_backups(self, stacked: Site) -> None:
        cinder = stacked.options("cinder/cinder.conf")
        assert (
            cinder["DEFAULT"].items()
            >= {
                "enabled_backends": "fisk",
                "default_volume_type": "fisk",
                "backup_driver": "fisk_openstack.cinder.backup.FiskBackupDriver",
                **reach(stacked),
            }.items()
        )
        assert (
            cinder["fisk"].items()
            >= {
                "volume_driver": "fisk_openstack.cinder.driver.FiskDriver",
                "volume_backend_name": "fisk",
                **reach(stacked),
            }.items()
        )

    def test_for_images(self, stacked: Site) -> None:
        glance = stacked.options("glance/glance-api.conf")
        assert glance["DEFAULT"]["enabled_backends"] == "fisk:fisk"
        assert glance["glance_store"]["default_backend"] == "fisk"
        assert glance["fisk"] == reach(stacked)
        assert {"os_glance_staging_store", "os_glance_tasks_store"} <= set(glance)

    def test_for_servers(self, stacked: Site) -> None:
        nova = stacked.options("nova/nova.conf")
        assert nova["DEFAULT"]["config_source"] == "fisk"
        assert nova["DEFAULT"]["compute_driver"] == "fisk.FiskLibvirtDriver"
        assert nova["fisk"] == {"driver": "fisk", **reach(stacked)}

    def test_for_tempest_as_where_it_runs(self, stacked: Site) -> None:
        told = stacked.options("tempest/tempest.conf")
        assert told["volume"]["vendor_name"] == "Fisk"
        claimed = {name for section in told if section.endswith("-enabled") for name in told[section]}
        template = (HERE.parents[1] / "devstack/ministack/etc/tempest.conf.j2").read_text()
        tried = {line.partition(" = ")[0] for line in template.splitlines() if line.endswith("= true")}
        assert claimed - {"consistency_group"} <= tried  # that one is off for the stock drivers

    def test_the_checkout_is_installed(self, stacked: Site) -> None:
        pip = (stacked.path / "pip.log").read_text()
        assert f"pip install -e {stacked.path}/stack/fisk[daemon,openstack]" in pip


class TestLife:
    def test_the_daemon_runs_until_it_is_unstacked(self, site: Site) -> None:
        site.drive(*STACK)
        assert site.answers()
        with RemoteEngine.open(site.url) as engine:
            made = engine.create("left", 1 << 20)
            engine.attach(made.id)
        site.drive("unstack")
        assert not site.answers()
        assert site.home.exists()
        site.drive("stack:post-config")
        with RemoteEngine.open(site.url) as engine:
            assert [fisk.name for fisk in engine.list()] == ["left"]
            assert engine.attachments() == []

    def test_every_phase_may_be_run_again(self, site: Site) -> None:
        site.drive(*STACK)
        once = {name: site.options(name) for name in FILES}
        site.drive(*(word for word in STACK[1:] for _ in range(2)))
        again = {name: site.options(name) for name in FILES}
        for each in (once, again):  # DevStack makes this one anew at each run
            each["cinder/cinder.conf"].get("key_manager", {}).pop("fixed_key", None)
        assert once == again
        site.drive("unstack", "unstack")
        site.drive("clean", "clean")

    def test_unstack_and_clean_take_back_what_stack_did(self, site: Site) -> None:
        site.drive("begin")
        before = {name: site.options(name) for name in FILES[:2]}
        site.drive(*STACK)
        site.drive("unstack")
        after = {name: site.options(name) for name in FILES[:2]}
        for section in ("os_glance_staging_store", "os_glance_tasks_store"):  # DevStack's own
            after["glance/glance-api.conf"].pop(section)
        assert after == before
        cinder = site.options("cinder/cinder.conf")
        assert "fisk" not in cinder
        assert "backup_driver" not in cinder["DEFAULT"]
        site.drive("clean")
        assert not site.home.exists()
        assert not (site.path / "etc" / "fisk").exists()


@pytest.mark.parametrize("part", ["CINDER", "CINDER_BAK", "GLANCE", "NOVA"])
def test_each_part_can_be_left_out(home: Path, part: str) -> None:
    site = Site(home, **{f"ENABLE_FISK_{part}": "False"})
    try:
        printed = site.drive(*STACK)
        cinder, glance = site.options("cinder/cinder.conf"), site.options("glance/glance-api.conf")
        found = {
            "CINDER": "fisk" in cinder,
            "CINDER_BAK": "fisk" in cinder["DEFAULT"].get("backup_driver", ""),
            "GLANCE": "fisk" in glance,
            "NOVA": "config_source" in site.options("nova/nova.conf")["DEFAULT"],
        }
        assert found == {name: name != part for name in found}
        assert f" {part.lower()} " not in printed.replace("serves:", "serves: ")
    finally:
        site.drive("clean")


def test_hosts_get_volumes_by_iscsi_where_nova_does_without(home: Path) -> None:
    site = Site(home, ENABLE_FISK_NOVA="False")
    site.drive("begin", "stack:install", "stack:test-config")
    assert site.options("cinder/cinder.conf")["fisk"]["fisk_target_protocol"] == "iscsi"
    assert site.options("tempest/tempest.conf")["volume"]["storage_protocol"] == "iscsi"
    assert (home / "packages.log").read_text() == "install tgt\nstop tgt\n"


class TestAPersonsSettings:
    def test_the_whole_plugin_can_be_left_out(self, home: Path) -> None:
        site = Site(home, DISABLED_SERVICES="fisk")
        site.drive(*STACK, "unstack", "clean")
        assert not site.home.exists()
        assert site.options("cinder/cinder.conf")["DEFAULT"]["enabled_backends"] == "lvmdriver-1"

    def test_another_backup_driver_stays(self, home: Path) -> None:
        site = Site(home, CINDER_BACKUP_DRIVER="s3_swift")
        site.drive("begin", "stack:install")
        assert "fisk" not in site.options("cinder/cinder.conf")["DEFAULT"].get("backup_driver", "")

    def test_several_back_ends(self, home: Path) -> None:
        site = Site(home, CINDER_ENABLED_BACKENDS="fisk:quick,fisk:slow", FISK_POOL="bulk")
        site.drive("begin", "stack:install")
        cinder = site.options("cinder/cinder.conf")
        assert cinder["DEFAULT"]["enabled_backends"] == "quick,slow"
        assert cinder["slow"]["volume_backend_name"] == "slow"
        assert cinder["slow"]["fisk_pool"] == "bulk"

    def test_other_stores_stay_beside_ours(self, home: Path) -> None:
        site = Site(home, STORES="fast:file,cheap:file")
        try:
            site.drive(*STACK, "stack:post-config")
            assert site.options("glance/glance-api.conf")["DEFAULT"]["enabled_backends"] == (
                "fast:file,cheap:file,fisk:fisk"
            )
            site.drive("unstack")
            assert (
                site.options("glance/glance-api.conf")["DEFAULT"]["enabled_backends"]
                == "fast:file,cheap:file"
            )
        finally:
            site.drive("clean")

    def test_pool_and_options_of_the_daemon(self, home: Path) -> None:
        site = Site(home, FISK_POOL="bulk")
        (home / "devstack").mkdir()
        (home / "devstack" / "local.conf").write_text(
            "[[post-config|$FISK_CONF]]\n[jobs]\nconcurrency = 3\n\n[[post-config|$NOVA_CONF]]\n[x]\ny = 1\n"
        )
        try:
            site.drive("begin", "stack:post-config")
            assert site.options("fisk/fisk.conf")["jobs"] == {"concurrency": "3"}
            with RemoteEngine.open(site.url) as engine:
                assert engine.pool("bulk").name == "bulk"
        finally:
            site.drive("clean")

    @pytest.mark.parametrize("setting", [{"USE_VENV": "True"}, {"VIRT_DRIVER": "ironic"}])
    def test_what_cannot_work_ends_the_run_at_once(self, home: Path, setting: dict[str, str]) -> None:
        assert "ERROR" in Site(home, **setting).drive("begin", "stack:pre-install", fails=True)
