# SPDX-License-Identifier: Apache-2.0
"""The plugin of DevStack: every phase, run by ``drive.sh`` as stack.sh, unstack.sh and clean.sh would.

With ``DEVSTACK_DIR``, a checkout of DevStack, its own function library runs the phases; else functions of
ours, written after what its manual promises to plugins.  fiskd is the real one either way.
"""

import configparser
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fisk_core.client import RemoteEngine
from fisk_core.errors import FiskError

HERE = Path(__file__).parent
STACK = (
    "begin",
    *(f"stack:{phase}" for phase in ("pre-install", "install", "post-config", "extra", "test-config")),
)

class Site:
    """A host on which DevStack runs, in a directory."""

    def __init__(self, path: Path, **settings: str) -> None:
        self.path, self.settings = path, settings
        self.home = path / "data" / "fisk"

    def drive(self, *words: str, fails: bool = False) -> str:
        """Do what the words say; gives what was printed."""
        environment = {
            name: os.environ[name] for name in ("PATH", "HOME", "DEVSTACK_DIR") if name in os.environ
        }
        environment |= {
            "SITE": str(self.path),
            "FISK_BIN_DIR": str(Path(sys.executable).parent),
        } | self.settings
        done = subprocess.run(
            ["bash", str(HERE / "drive.sh"), *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def options(self, name: str) -> dict[str, dict[str, str]]:
        """Give section → option → value of a file of the services, without sections that are empty."""
        parser = configparser.ConfigParser(interpolation=None, default_section="\0", strict=False)
        parser.read(self.path / "etc" / name)
        return {section: dict(parser[section]) for section in parser.sections() if len(parser[section])}

    @property
    def url(self) -> str:
        return f"unix://{self.home}/run/fiskd.sock"

    def answers(self) -> bool:
        """Whether a daemon runs there."""
        try:
            with RemoteEngine.open(self.url) as engine:
                engine.about()
        except FiskError:
            return False
        return True


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


def ours(options: dict[str, dict[str, str]], section: str, *names: str) -> dict[str, str | None]:
    """Give some options of a section, None for what is not set."""
    return {name: options.get(section, {}).get(name) for name in names}


class TestAllOfIt:
    def test_what_the_services_are_told(self, site: Site) -> None:
        site.drive(*STACK)
        reach = {"fisk_url": site.url, "fisk_pool": "default"}
        cinder = site.options("cinder/cinder.conf")
        assert (
            ours(cinder, "DEFAULT", "enabled_backends", "default_volume_type", "backup_driver", *reach)
            == {
                "enabled_backends": "fisk",
                "default_volume_type": "fisk",
                "backup_driver": "fisk_openstack.cinder.backup.FiskBackupDriver",
            }
            | reach
        )
        assert (
            ours(cinder, "fisk", "volume_driver", "volume_backend_name", *reach)
            == {
                "volume_driver": "fisk_openstack.cinder.driver.FiskDriver",
                "volume_backend_name": "fisk",
            }
            | reach
        )
        glance = site.options("glance/glance-api.conf")
        assert ours(glance, "DEFAULT", "enabled_backends") == {"enabled_backends": "fisk:fisk"}
        assert ours(glance, "glance_store", "default_backend") == {"default_backend": "fisk"}
        assert glance["fisk"] == reach
        assert {"os_glance_staging_store", "os_glance_tasks_store"} <= set(glance)
        nova = site.options("nova/nova.conf")
        assert ours(nova, "DEFAULT", "config_source", "compute_driver") == {
            "config_source": "fisk",
            "compute_driver": "fisk.FiskLibvirtDriver",
        }
        assert nova["fisk"] == {"driver": "fisk"} | reach
        tempest = site.options("tempest/tempest.conf")
        assert ours(tempest, "volume", "vendor_name", "storage_protocol") == {
            "vendor_name": "Fisk",
            "storage_protocol": "fisk",
        }
        assert (
            f"pip install -e {site.path}/stack/fisk[daemon,openstack]" in (site.path / "pip.log").read_text()
        )

    def test_tempest_is_told_what_it_is_told_where_it_runs(self, site: Site) -> None:
        site.drive(*STACK)
        told, here = (
            site.options("tempest/tempest.conf"),
            HERE.parents[1] / "devstack/ministack/etc/tempest.conf.j2",
        )
        claimed = {name for section in told if section.endswith("-enabled") for name in told[section]}
        run = {line.partition(" = ")[0] for line in here.read_text().splitlines() if line.endswith("= true")}
        conditional = {"consistency_group"}  # off for the stock drivers
        assert claimed - conditional <= run

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
