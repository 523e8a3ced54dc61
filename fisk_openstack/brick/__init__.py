# SPDX-License-Identifier: Apache-2.0
"""Volumes on the hosts of services that use os-brick: its connector for the protocol ``fisk``."""
