# SPDX-License-Identifier: Apache-2.0
"""The page of the manual that says which tests of the services ran, and why the others did not."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from devstack.ministack.errors import MinistackError
from devstack.ministack.place import CHECKOUT, Place
from devstack.ministack.tempest import Tempest, excluded, listing

PAGE = CHECKOUT / "doc" / "source" / "reference" / "tempest.rst"
Results = Mapping[str, Sequence[object]]
_HEAD = """\
.. Written by ``ministack tempest report``; do not edit.

Tests of OpenStack
==================

What Tempest {tempest} and cinder-tempest-plugin {plugin} find in a cloud of ``devstack/ministack`` whose only
storage is Fisk, with every feature switched on that the drivers claim.  ``make tempest`` runs all of them,
``devstack/ministack/ministack tempest smoke`` those of :file:`devstack/ministack/tests/smoke.txt`.

A class that skips as a whole counts once.  {recorded}

"""
_GROUPS = {
    "tempest.api.image": "Images",
    "tempest.api.volume": "Volumes",
    "cinder_tempest_plugin": "Cinder's own",
    "tempest.api.compute": "Servers",
    "tempest.scenario": "Scenarios",
}
"""beginning of a test's name → heading"""


def write(place: Place) -> None:
    """Write the page from the results of all runs, with one compute host and with two.

    Raises MinistackError when there are none with one.
    """
    one, two = (Tempest(Place.below(place.directory.parent, place.backend, count)) for count in (1, 2))
    if not one.results.exists():
        raise MinistackError("no test was run yet")
    versions = {"tempest": version("tempest"), "plugin": version("cinder-tempest-plugin")}
    more = json.loads(two.results.read_text()) if two.results.exists() else {}
    PAGE.write_text(page(json.loads(one.results.read_text()), versions, one.runs, more))


def page(
    results: Results,
    versions: Mapping[str, str],
    runs: Sequence[str] = ("all",),
    with_two_hosts: Results | None = None,
) -> str:
    """Give the page as reStructuredText; ``versions`` are those of ``tempest`` and ``plugin``.

    ``runs``: what was asked for, run by run.  ``with_two_hosts``: results that count where others are skips.
    """
    recorded = _recorded(runs)
    if with_two_hosts:
        results = _completed(results, with_two_hosts)
        recorded += "  Those that take two compute hosts were run with ``--computes 2``."
    results = _still_run(results)
    parts = [_HEAD.format(recorded=recorded, **versions), *_table(results)]
    for start, heading in _GROUPS.items():
        own = {name: result for name, result in results.items() if _bare(name).startswith(start)}
        reasons = defaultdict(list)
        for name, (status, _, reason) in sorted(own.items()):
            if status == "skip":
                reasons[str(reason).strip().splitlines()[0] if reason else "no reason given"].append(
                    _short(name, start)
                )
        if reasons:
            parts.append(_titled(f"{heading}: skipped", "-"))
            parts += [_entry(reason, names) for reason, names in sorted(reasons.items())]
        failed = sorted(name for name, result in own.items() if result[0] == "fail")
        if failed:
            parts.append(_titled(f"{heading}: failed", "-"))
            parts += [*(f"* ``{_short(name, start)}``\n" for name in failed), "\n"]
    parts.append(_titled("Not run", "-"))
    parts += [f"{reason}\n    ``{pattern}``\n\n" for pattern, reason in excluded()]
    return "".join(parts).rstrip() + "\n"


def _completed(results: Results, more: Results) -> Results:
    """Give the results, and those of ``more`` for tests that did not run."""
    found = dict(results)
    for name, result in more.items():
        if result[0] != "skip" and found.get(name, ["skip"])[0] == "skip":
            found.pop(f"setUpClass ({name.rpartition('.')[0]})", None)
            found[name] = result
    return found


def _still_run(results: Results) -> Results:
    """Give the results without those of tests that were left out since."""
    patterns = [pattern for pattern, _ in excluded()]
    return {
        name: result
        for name, result in results.items()
        if not any(re.search(pattern, name) for pattern in patterns)
    }


def _recorded(runs: Sequence[str]) -> str:
    if "all" in runs or {*listing("all")} <= {*runs}:
        return "All of them were run for this page."
    return f"Not all of them were run for this page, but: {', '.join(f'``{each}``' for each in runs)}."


def _table(results: Results) -> list[str]:
    rows = [
        ".. list-table::\n   :header-rows: 1\n\n   * - tests\n     - passed\n     - skipped\n     - failed\n"
    ]
    for start, heading in _GROUPS.items():
        counts = Counter(result[0] for name, result in results.items() if _bare(name).startswith(start))
        cells = "".join(f"     - {counts[status]}\n" for status in ("success", "skip", "fail"))
        rows.append(f"   * - {heading} (``{start}``)\n{cells}")
    return [*rows, "\n"]


def _entry(reason: str, names: Sequence[str]) -> str:
    escaped = reason.replace("\\", "\\\\").replace("*", "\\*").replace("`", "'").replace("_", "\\_")
    return f"{escaped}\n" + "".join(f"    * ``{name}``\n" for name in names) + "\n"


def _titled(text: str, underline: str) -> str:
    return f"{text}\n{underline * len(text)}\n\n"


def _bare(name: str) -> str:
    """Give the test's or class's name without what says that a class could not be set up."""
    return name.partition("(")[2].rstrip(")") if "(" in name else name


def _short(name: str, start: str) -> str:
    return _bare(name).removeprefix(f"{start}.")
