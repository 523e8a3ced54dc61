# SPDX-License-Identifier: Apache-2.0
"""Bit rot: every kind of file is damaged in every way; it must be noticed and named, or do no harm."""
