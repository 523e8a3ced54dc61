# SPDX-License-Identifier: Apache-2.0
"""The support matrix of the manual says what is in the tree."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "doc" / "source" / "_ext"))

import support_matrix  # noqa: E402  # an extension of the manual, found there

FEATURES = support_matrix.features()


@cache
def functions(package: Path) -> set[str]:
    """Give the names of all functions and methods of the modules in a directory."""
    trees = (ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in package.glob("*.py"))
    return {node.name for tree in trees for node in tree if isinstance(node, ast.FunctionDef)}


def there_is(folder: str, reference: str) -> bool:
    package, _, name = reference.partition(":")
    return name in functions(ROOT / folder / package)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda each: f"{each.service}: {each.name}")
class TestFeature:
    def test_methods_and_tests_it_names_are_there(self, feature: support_matrix.Feature) -> None:
        missing = [each for each in feature.methods if not there_is("fisk_openstack", each)]
        missing += [each for each in feature.seen if not there_is("tests/openstack", each)]
        assert missing == []

    def test_what_is_supported_was_seen_and_what_is_not_was_not(
        self, feature: support_matrix.Feature
    ) -> None:
        assert feature.state in support_matrix.STATES
        assert bool(feature.methods) == bool(feature.seen) == (feature.state != "no")
        assert feature.note or feature.state != "limited"


def test_every_service_of_the_matrix_has_its_table() -> None:
    page = (ROOT / "doc/source/admin/support-matrix.rst").read_text()
    for service in {feature.service for feature in FEATURES}:
        assert f".. support-matrix:: {service}\n" in page
