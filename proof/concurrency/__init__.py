# SPDX-License-Identifier: Apache-2.0
"""Overlapping clients, an operator and a killer; then every block's history is checked."""
