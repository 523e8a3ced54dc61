# SPDX-License-Identifier: Apache-2.0
"""The proof of power loss can fail: an engine that forgets a sync is found out.  And it passes for ours."""

import logging
import os

import pytest

from proof.power.__main__ import main
from proof.power.recording import Kind, Place, record
from proof.power.records import Note, without_syncs
from proof.power.script import TINY
from proof.power.trial import Trial

CUTS = 25
MOST = 400

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="the recorder is a FUSE file system"
)


def play(script):
    """Each kind of sync has something that depends on it."""
    script.write()
    script.snapshot()
    script.write()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("power"))
    return place.root, record(Kind("short", TINY, play), "1", place)


@pytest.fixture(autouse=True)
def quiet():
    """Recovery says what it does."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def cut(root, records, most, replays=None):
    """Try up to ``most`` cuts, until one fails; gives the trial."""
    trial = Trial("test", records, root, replays)
    trial.run(lambda: trial.tally.cuts < most and not trial.tally.failures)
    return trial.tally


def test_our_syncs_are_enough(recorded):
    tally = cut(*recorded, CUTS)
    assert (tally.cuts, tally.failures) == (CUTS, [])
    assert tally.blocks > 0


@pytest.mark.parametrize(
    "forgotten",
    [
        pytest.param("/h/pools/default/layers/??/*", id="data"),
        pytest.param("/h/pools/default/logs/??/*", id="logs"),
        pytest.param("/h/pools/default/logs/??", id="names of logs"),
        pytest.param("/h/pools/default", id="folders of the pool"),
        pytest.param("", id="name of the home"),
        pytest.param("/h/catalog.sqlite-wal", id="catalog"),
    ],
)
def test_a_forgotten_sync_is_found_out(recorded, forgotten):
    root, records = recorded
    assert cut(root, list(without_syncs(records, forgotten)), MOST).failures


def test_a_boot_that_is_cut_too(tmp_path):
    """What was promised before the first cut is promised still, and part of what finishes it is recorded."""
    place = Place(tmp_path / "p")
    records = record(Kind("boot", TINY, play, again=True), "1", place)
    last = max(at for at, each in enumerate(records) if isinstance(each, Note))
    assert len(records) > last + 5
    tally = cut(place.root, records, CUTS)
    assert (tally.cuts, tally.failures) == (CUTS, [])
    assert tally.blocks > 0


def test_a_replay_shows_it_again(recorded, tmp_path, capsys):
    root, records = recorded
    [failure] = cut(root, list(without_syncs(records, "/h/catalog.sqlite-wal")), MOST, tmp_path).failures
    root.rename(root.with_name("moved"))  # whoever looks at it has no such directory
    try:
        assert main([str(failure.replay)]) == 1
    finally:
        root.with_name("moved").rename(root)
    assert str(failure.problems[0]) in capsys.readouterr().out
