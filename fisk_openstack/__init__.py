# SPDX-License-Identifier: Apache-2.0
"""Fisk behind OpenStack: thin adapters over ``fisk_core.client``.  They translate names, sizes and errors."""
