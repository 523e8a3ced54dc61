# SPDX-License-Identifier: Apache-2.0
"""Fisk: disk, volume, snapshot and image are one resource, a set of blocks whose map shares layers."""

__version__ = "0.1.0"
