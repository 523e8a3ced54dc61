# SPDX-License-Identifier: Apache-2.0
"""Runs inside alembic: the connection comes from the catalog, which has begun the transaction."""

from alembic import context

from fisk_core.catalog.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter most of a table in place
)
with context.begin_transaction():
    context.run_migrations()
