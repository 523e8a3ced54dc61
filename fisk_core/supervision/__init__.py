# SPDX-License-Identifier: Apache-2.0
"""The workers of a host, kept running as the catalog says: attach, detach, builds, upgrades.

``supervisor`` has the verbs, ``attaching``, ``builds`` and ``keeping`` what they do and in which order,
``workers`` the processes.  The states, and what a crash leaves in each, are in ``doc/source/design``.
"""

from fisk_core.supervision.shapes import Build, WorkerStatus
from fisk_core.supervision.supervisor import Supervisor

__all__ = ["Build", "Supervisor", "WorkerStatus"]
