# SPDX-License-Identifier: Apache-2.0
"""Servers on a real Nova: guests that boot, and write to their disks."""
