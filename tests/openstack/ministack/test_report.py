# SPDX-License-Identifier: Apache-2.0
"""The page about the tests of the services says what ran, and every reason why something did not."""

from devstack.ministack import report
from devstack.ministack.tempest import listing

VERSIONS = {"tempest": "47.0", "plugin": "1.23"}
RESULTS = {
    "tempest.api.image.v2.test_images.Some.test_a": ["success", 1.0, ""],
    "tempest.api.image.v2.test_images.Some.test_b": ["skip", 0.1, "it is *off*"],
    "setUpClass (tempest.api.volume.test_c.Whole)": ["skip", 0.0, "no swift_here"],
    "tempest.api.volume.test_d.Other.test_e": ["fail", 3.0, "AssertionError: 1"],
}


def test_counts_of_each_group_are_in_the_table() -> None:
    page = report.page(RESULTS, VERSIONS)
    assert "Images (``tempest.api.image``)\n     - 1\n     - 1\n     - 0\n" in page
    assert "Volumes (``tempest.api.volume``)\n     - 0\n     - 1\n     - 1\n" in page


def test_reasons_are_escaped_and_name_their_tests() -> None:
    page = report.page(RESULTS, VERSIONS)
    assert "it is \\*off\\*\n    * ``v2.test_images.Some.test_b``\n" in page
    assert "no swift\\_here\n    * ``test_c.Whole``\n" in page


def test_what_only_two_hosts_can_run_is_not_shown_as_skipped() -> None:
    more = {
        "tempest.api.volume.test_c.Whole.test_f": ["success", 1.0, ""],
        "tempest.api.image.v2.test_images.Some.test_b": ["skip", 0.0, "again"],
        "tempest.api.volume.test_d.Other.test_e": ["success", 1.0, ""],
    }
    page = report.page(RESULTS, VERSIONS, with_two_hosts=more)
    assert "Volumes (``tempest.api.volume``)\n     - 1\n     - 0\n     - 1\n" in page
    assert "no swift" not in page
    assert "it is \\*off\\*" in page
    assert "``--computes 2``" in page


def test_failures_are_not_hidden() -> None:
    page = report.page(RESULTS, VERSIONS)
    assert "Volumes: failed\n---------------\n\n* ``test_d.Other.test_e``\n" in page


def test_what_is_never_run_is_named_with_its_reason() -> None:
    page = report.page({}, VERSIONS)
    assert "logs in to a server, which takes a network\n    ``SnapshotDataIntegrityTests``\n" in page


def test_a_page_of_some_tests_says_so() -> None:
    assert "All of them were run" in report.page(RESULTS, VERSIONS, ["smoke", "all"])
    page = report.page(RESULTS, VERSIONS, ["smoke", "tempest.scenario.test_x"])
    assert "Not all of them were run for this page, but: ``smoke``, ``tempest.scenario.test_x``.\n" in page


def test_all_of_them_in_parts_are_all() -> None:
    parts = listing("all")
    assert "All of them were run" in report.page(RESULTS, VERSIONS, parts)
    assert "Not all of them" in report.page(RESULTS, VERSIONS, parts[1:])


def test_what_is_not_run_any_more_is_not_counted() -> None:
    old = {"cinder_tempest_plugin.scenario.x.SnapshotDataIntegrityTests.test_it": ["fail", 1.0, "no network"]}
    assert report.page({**RESULTS, **old}, VERSIONS) == report.page(RESULTS, VERSIONS)
    with_two = report.page(RESULTS, VERSIONS, with_two_hosts=RESULTS)
    assert report.page(RESULTS, VERSIONS, with_two_hosts={**RESULTS, **old}) == with_two
