# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

from fisk_core import config


def test_every_option_is_offered_to_the_sample_generator():
    names = {(group, option.name) for group, options in config.list_opts() for option in options}
    assert names == {(None, "default_pool"), ("catalog", "connection")}
    assert all(option.help for _, options in config.list_opts() for option in options)


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
