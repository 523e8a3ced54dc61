# SPDX-License-Identifier: Apache-2.0
"""The engine: all verbs on Fisks, one module for each concern."""

from fisk_core.engine.building import Building
from fisk_core.engine.engine import Engine, Progress
from fisk_core.engine.opening import LockedDisk
from fisk_core.model import PoolInfo, TreeNode

__all__ = ["Building", "Engine", "LockedDisk", "PoolInfo", "Progress", "TreeNode"]
