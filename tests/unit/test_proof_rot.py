# SPDX-License-Identifier: Apache-2.0
"""The proof of damaged files can fail: with what notices damage taken away, it says so."""

from random import Random

import pytest

from fisk_core.blockmap import ends
from fisk_core.dataplane import verify
from proof.core import ProofFailed
from proof.rot import damage
from proof.rot.judge import Judge, Tally, damaged, problems
from proof.rot.specimen import PLAIN, SUMMED, build


@pytest.fixture(scope="module")
def specimen(tmp_path_factory):
    with build(tmp_path_factory.mktemp("rot") / "h", Random(1)) as built:
        yield built


def read_all(specimen, pool):
    judge = Judge(Tally())
    views = [view for view in specimen.views if view.pool == pool]
    return [exc for view in views if (exc := judge.read(specimen.engine.open_pool(pool), view))]


def test_an_undamaged_home_reads_as_it_was_made(specimen):
    assert read_all(specimen, PLAIN) == read_all(specimen, SUMMED) == []
    assert problems(specimen.engine) == []


def test_wrong_data_of_a_layer_is_seen(specimen, monkeypatch):
    view = next(view for view in specimen.views if view.name == f"{SUMMED}-volume")
    (path,) = [each for each in specimen.files(SUMMED, "layer") if each.name == view.spec.map_id]
    with damaged(path, bytes(len(path.read_bytes()))):
        assert read_all(specimen, SUMMED) != []
        monkeypatch.setattr(verify.Checked, "damaged", lambda *_: [])
        with pytest.raises(ProofFailed, match="wrong bytes were served as good"):
            read_all(specimen, SUMMED)


def test_an_older_log_is_seen(specimen, monkeypatch):
    view = next(view for view in specimen.views if view.name == f"{PLAIN}-volume")
    (path,) = [each for each in specimen.files(PLAIN, "log") if each.name == view.spec.map_id]
    with damaged(path, path.read_bytes()[:512]):
        assert read_all(specimen, PLAIN) != []
        monkeypatch.setattr(ends.End, "require", lambda *_: None)
        with pytest.raises(ProofFailed, match="wrong bytes were served as good"):
            read_all(specimen, PLAIN)


def test_an_error_that_names_something_else_is_seen():
    with pytest.raises(ProofFailed, match="names none of"):
        Judge(Tally()).named(ends.Corrupt("something is damaged"), ["this", "that"])


def test_each_damage_changes_the_file():
    case = damage.Case(bytes(range(256)) * 40, (b"other",), (b"older",))
    chance, seen = Random(3), set()
    for _ in range(300):
        kind, _, data = damage.choose(chance, case)
        assert data != case.data
        seen.add(kind)
    assert seen == {one.__name__ for one, _ in damage.KINDS}
