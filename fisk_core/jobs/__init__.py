# SPDX-License-Identifier: Apache-2.0
"""Jobs: long work that has a name, can be watched and cancelled, and goes on after a restart."""

from fisk_core.jobs.kinds import KINDS
from fisk_core.jobs.problem import document
from fisk_core.jobs.runner import Runner

__all__ = ["KINDS", "Runner", "document"]
