# SPDX-License-Identifier: Apache-2.0
"""Volumes, snapshots and backups of Cinder as Fisks."""
