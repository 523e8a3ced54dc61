# SPDX-License-Identifier: Apache-2.0
"""Alembic's directory: one file per change of the schema."""
