# SPDX-License-Identifier: Apache-2.0
"""Do Fisks and the resources of a cloud agree?  What a crash left behind on either side is found here.

``survey`` reads both sides, ``rules`` compare them, ``repair`` removes what is an orphan for certain.
"""

from fisk_openstack.reconcile.findings import Finding, Fix
from fisk_openstack.reconcile.repair import repair
from fisk_openstack.reconcile.rules import compare
from fisk_openstack.reconcile.survey import Survey, survey

__all__ = ["Finding", "Fix", "Survey", "compare", "repair", "survey"]
