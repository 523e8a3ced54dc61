# SPDX-License-Identifier: Apache-2.0
"""What the manual tells those who run OpenStack is in the tree: options, classes, commands, messages."""

import configparser
import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fisk_core import config
from fisk_core.daemon import options as daemon_options

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "doc" / "source" / "_ext"))

import adapter_options  # noqa: E402  # an extension of the manual, found there

PAGES = sorted((ROOT / "doc/source/admin").glob("*.rst"))
README = ROOT / "devstack" / "README.rst"
CODE = "".join(
    path.read_text() for package in ("fisk_core", "fisk_openstack") for path in (ROOT / package).rglob("*.py")
)


def entry_points(group: str) -> set[str]:
    """Give the commands of a group, as they are typed."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    groups = re.split(r"\n(?=\S)", setup["options.entry_points"][group])
    return {
        line.partition("=")[0].strip().replace("_", " ") for line in "\n".join(groups).splitlines() if line
    }


def shown(page: str) -> Iterator[str]:
    """Give what people are told to type: literal blocks, and words in literal quotes."""
    yield from re.findall(r"^ {3,}(?:[$#] )?(\S.*)$", page, re.M)
    yield from re.findall(r"``([^`]+)``", page)


@pytest.mark.parametrize("path", [*PAGES, README], ids=lambda path: path.name)
class TestPage:
    def test_options_of_the_adapters_exist(self, path: Path) -> None:
        known = {
            each.name for module in adapter_options.modules() for each in adapter_options.options(module)
        }
        named = set(re.findall(r"\bfisk_(?!openstack|core)[a-z_]+\b", path.read_text()))
        assert named <= known

    def test_classes_exist(self, path: Path) -> None:
        for module, name in re.findall(r"\b(fisk_openstack[a-z_.]+)\.([A-Z]\w+)", path.read_text()):
            file = ROOT / module.replace(".", "/")
            sources = [file.with_suffix(".py"), file / "__init__.py"]
            assert any(name in source.read_text() for source in sources if source.exists()), (
                f"{module}.{name}"
            )

    def test_commands_exist(self, path: Path) -> None:
        known = entry_points("fisk.cli")
        for line in shown(path.read_text()):
            typed = re.match(r"(?:/opt/fisk/bin/)?fisk (?:--url \S+ )?([a-z ]+)", line)
            if typed:
                words = typed[1].split()
                assert words[0] in known or " ".join(words[:2]) in known, line


def test_options_of_the_daemon_exist() -> None:
    known = {
        (group or "DEFAULT", option.name)
        for found in (config.list_opts(), daemon_options.list_opts())
        for group, options in found
        for option in options
    }
    page = (ROOT / "doc/source/admin/deploy.rst").read_text()
    block = re.search(r":caption: /var/lib/fisk/fisk.conf\n\n((?:   .*\n|\n)+)", page)
    assert block is not None
    parser = configparser.ConfigParser()
    parser.read_string(re.sub("^   ", "", block[1], flags=re.M))
    assert {(section, name) for section in parser.sections() for name in parser[section]} <= known


def test_settings_of_the_plugin_exist() -> None:
    settings = (ROOT / "devstack" / "settings").read_text()
    named = set(re.findall(r"\b(?:ENABLE_)?FISK_[A-Z_]+\b", README.read_text()))
    assert named
    assert {each for each in named if f"{each}=" not in settings} == set()


def test_every_option_of_the_adapters_is_in_the_manual() -> None:
    page = (ROOT / "doc/source/admin/options.rst").read_text()
    for module in adapter_options.modules():
        assert adapter_options.options(module)
        assert f".. adapter-options:: {module.relative_to(ROOT)}\n" in page


OF_OTHERS = ("No module named", "Store fisk could not be configured")
"""What messages begin with that are not of this tree as a whole."""


def test_messages_the_manual_explains_are_in_the_tree() -> None:
    page = (ROOT / "doc/source/admin/troubleshooting.rst").read_text()
    quoted = {each for line in page.splitlines() for each in re.findall(r"^(?:\S.*)?``([^`]* [^`]*)``", line)}
    messages = {each for each in quoted if not each.startswith((*OF_OTHERS, "GET "))}
    assert len(messages) > 5
    pieces = {piece.strip() for each in messages for piece in re.split("[…'():]", each)}
    said_by_the_system = {os.strerror(each) for each in (errno.ENOENT, errno.EACCES)}
    assert {each for each in pieces - said_by_the_system if each not in CODE} == set()
