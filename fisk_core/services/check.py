# SPDX-License-Identifier: Apache-2.0
"""Verifies what the design promises about catalog and pools, and repairs what can be repaired without
losing data.

Errors are contradictions and missing or damaged files; a leak (something nobody names) is a warning, and is
removed only when there is no error.
Everything may go on meanwhile: when something was found and the catalog changed during the look, it is
looked at again; there is more to be done then than was said at first.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fisk_core.errors import FiskError
from fisk_core.reports import CheckReport as CheckReport
from fisk_core.reports import Problem as Problem
from fisk_core.reports import Severity
from fisk_core.services import sweep
from fisk_core.services.check_rules import RULES, Finding, look
from fisk_core.services.meter import Meter, Progress

if TYPE_CHECKING:
    from fisk_core.engine.context import Context

LOG = logging.getLogger(__name__)

_LOOKS = 3


def check(context: "Context", *, repair: bool = False, progress: Progress | None = None) -> CheckReport:
    """Verify every invariant; with ``repair``, put right what can be without losing data.

    ``progress`` is told how many rows were compared with a rule, and how many repairs were made.  Raising
    from it ends the work between two of these; what was repaired stays so.
    """
    meter = Meter(progress)
    for _ in range(_LOOKS):
        before = context.catalog.version()
        report, findings = _look_once(context, meter)
        if not findings or context.catalog.version() == before:
            break
    pairs = [(Problem(each.severity, each.kind, each.subject, each.message), each) for each in findings]
    report.problems = [problem for problem, _ in pairs]
    if repair:
        _repair_all(context, pairs, meter)
    return report


def _repair_all(context: "Context", pairs: Sequence[tuple[Problem, Finding]], meter: Meter) -> None:
    """Mend first.

    Remove only when no error is left: what looks like rubbish may belong to what is broken.
    """
    mending = [(problem, finding) for problem, finding in pairs if not finding.removes]
    removing = [(problem, finding) for problem, finding in pairs if finding.removes]
    meter.total += len(mending)
    for problem, finding in mending:
        problem.repaired = _repair(finding)
        meter.advance()
    left = {(each.kind, each.subject): each for each in _look_once(context, meter)[1]}
    if any(each.severity is Severity.ERROR for each in left.values()):
        return
    meter.total += len(removing)
    for problem, finding in removing:
        now = left.get((finding.kind, finding.subject))
        problem.repaired = now is None or _repair(now)
        meter.advance()
    for name in context.pool_names():
        try:
            sweep.sweep(context, name)  # dead temporary files too, which are no violation
        except FiskError as exc:
            LOG.warning("could not sweep pool %s: %s", name, exc)


def _look_once(context: "Context", meter: Meter) -> tuple[CheckReport, Sequence[Finding]]:
    view = look(context)
    view.step = meter.advance
    meter.total = meter.done + sum(view.rows(through) for _, through in RULES)
    findings = [finding for rule, _ in RULES for finding in rule(context, view)]
    return CheckReport(len(view.fisks), len(view.maps), len(view.layers)), findings


def _repair(finding: Finding) -> bool:
    if finding.repair is None:
        return False
    try:
        finding.repair()
    except FiskError as exc:
        LOG.warning("could not repair %s %s: %s", finding.kind, finding.subject, exc)
        return False
    return True
