# SPDX-License-Identifier: Apache-2.0
"""Removing what is an orphan for certain, and nothing else.

Credentials of another cloud would make everything an orphan.  So a Fisk is touched only when its project is
one of this cloud's, and nothing at all when the cloud knows none of its Fisks, or may know others in another
region.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

from fisk_core.client import RemoteEngine
from fisk_core.errors import FiskError, InvalidValue, NotFound
from fisk_openstack.cloud import HOME, Cloud
from fisk_openstack.labels import Kind
from fisk_openstack.reconcile.findings import Finding, Fix
from fisk_openstack.reconcile.survey import Survey
from fisk_openstack.things import kind_of

LOG = logging.getLogger(__name__)
_ORDER = (Fix.DETACH, Fix.DROP, Fix.DELETE)


def require_right_cloud(seen: Survey, cloud: Cloud, *, only_region: bool) -> None:
    """Raise InvalidValue unless this seems to be the cloud the Fisks belong to, and all of it."""
    regions = cloud.regions()
    if len(regions) > 1 and not only_region:
        raise InvalidValue(
            f"this cloud has {len(regions)} regions, and what the others have looks like orphans from here; "
            "if none of the others uses these Fisks, say --only-region"
        )
    if seen.fisks and not any(_known(seen, *found) for fisk in seen.fisks if (found := kind_of(fisk))):
        raise InvalidValue(f"this cloud knows none of {len(seen.fisks)} Fisks: is it the right one?")


def _known(seen: Survey, kind: Kind, own: str) -> bool:
    return own.partition("/")[0] in seen.resources[HOME[kind]]


def repair(engine: RemoteEngine, found: Iterable[Finding]) -> Iterator[Finding]:
    """Put right what may be, attachments first; gives all findings again, with what became of them."""
    for each in sorted(found, key=lambda one: _ORDER.index(one.fix) if one.fix else len(_ORDER)):
        try:
            yield replace(each, repaired=_apply(engine, each))
        except FiskError as problem:
            yield replace(each, reason=f"{each.reason}; not repaired: {problem}")


def _apply(engine: RemoteEngine, finding: Finding) -> bool:
    LOG.info("%s %s %s: %s", finding.what, finding.kind, finding.own, finding.fix)
    if finding.fix is Fix.DELETE:
        try:
            engine.delete(finding.target)  # not by force: what is attached is in use
        except NotFound:
            LOG.info("Fisk %s is gone meanwhile", finding.target)
    elif finding.fix is Fix.DROP:
        engine.drop_build(finding.target)
    elif finding.fix is Fix.DETACH:
        engine.detach(finding.target)
    return bool(finding.fix)
