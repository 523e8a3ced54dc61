# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from dataclasses import fields

import pytest

from fisk_core import config
from fisk_core.engine import Engine
from fisk_core.errors import InvalidValue


def test_every_option_is_offered_to_the_sample_generator():
    names = {(group, option.name) for group, options in config.list_opts() for option in options}
    assert {(None, "default_pool"), (None, "host"), ("catalog", "connection"), ("nbd", "listen")} <= names
    assert len(names) == sum(
        len(fields(getattr(config.Settings(), each.name))) for each in fields(config.Settings)
    )
    assert all(option.help for _, options in config.list_opts() for option in options)


def test_a_file_that_sets_nothing_changes_nothing(tmp_path):
    (tmp_path / "fisk.conf").write_text("[DEFAULT]\n")
    assert config.load(config.Home(tmp_path)) == config.Settings()


def test_what_a_file_sets(tmp_path):
    (tmp_path / "fisk.conf").write_text(
        f"[DEFAULT]\nhost = alpha\nlock_path = {tmp_path}/locks\n"
        "[nbd]\nlisten =\n[workers]\nreader_linger = 1.5\n"
    )
    with Engine.open(tmp_path) as engine:
        assert engine.holder.startswith("alpha:")
        assert engine.settings.nbd.listen == ""
        assert engine.settings.workers.reader_linger == 1.5
        assert engine.home.lock("x") == tmp_path / "locks" / "x.lock"
        assert engine.home.control("x") == tmp_path / "run" / "x.ctl"


def test_a_file_that_makes_no_sense(tmp_path):
    (tmp_path / "fisk.conf").write_text("[workers]\nreader_linger = soon\n")
    with pytest.raises(InvalidValue, match="reader_linger"):
        Engine.open(tmp_path)


def test_without_a_file_no_option_library_is_loaded(tmp_path):
    code = (
        "import sys, pathlib; from fisk_core import config; "
        "home = config.Home(pathlib.Path(sys.argv[1])); "
        "print(config.load(home).default_pool, 'oslo_config' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == ["default", "False"]


def test_paths_stay_below_home(tmp_path):
    home = config.Home(tmp_path)
    for path in (home.lock("x"), home.operation("x"), home.control("x"), home.socket("x"), home.making):
        assert path.parent == tmp_path / "run"
