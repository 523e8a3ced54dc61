# SPDX-License-Identifier: Apache-2.0
"""Attachments, jobs, events, range locks, schedules and tokens; their meaning is in ``catalog.schema``."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UUID = sa.String(36)
_NAME = sa.String(255)


def upgrade() -> None:
    _attachments()
    _jobs_and_events()
    _range_locks()
    _schedules()
    _tokens()


def _of_fisk(table: str) -> list[sa.Constraint]:
    return [
        sa.ForeignKeyConstraint(
            ["fisk_id"], ["fisks.id"], name=f"fk_{table}_fisk_id_fisks", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
    ]


def _attachments() -> None:
    op.create_table(
        "attachments",
        sa.Column("id", _UUID, nullable=False),
        sa.Column("fisk_id", _UUID, nullable=False),
        sa.Column("host", _NAME, nullable=False),
        sa.Column("access", sa.String(32), nullable=False),
        sa.Column("read_only", sa.Boolean, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("consumer", _NAME, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        *_of_fisk("attachments"),
    )
    op.create_index("ix_attachments_fisk_id", "attachments", ["fisk_id"])
    op.create_index("ix_attachments_host", "attachments", ["host"])


def _jobs_and_events() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _UUID, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("host", _NAME, nullable=False),
        sa.Column("arguments", sa.JSON, nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=True),
        sa.Column("result", sa.JSON, nullable=True),
        sa.Column("error", sa.JSON, nullable=True),
        sa.Column("cancelling", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_state", "jobs", ["state"])
    op.create_index("ix_jobs_updated_at", "jobs", ["updated_at"])
    op.create_table(
        "events",
        sa.Column("num", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("fisk_id", _UUID, nullable=True),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("num", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_at", "events", ["at"])


def _range_locks() -> None:
    op.create_table(
        "range_locks",
        sa.Column("id", _UUID, nullable=False),
        sa.Column("fisk_id", _UUID, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("shared", sa.Boolean, nullable=False),
        sa.Column("owner", _NAME, nullable=False),
        sa.Column("expires", sa.DateTime, nullable=False),
        sa.Column("waiting", sa.Boolean, nullable=False),
        sa.Column("ticket", sa.BigInteger, nullable=False),
        *_of_fisk("range_locks"),
    )
    op.create_index("ix_range_locks_fisk_id", "range_locks", ["fisk_id"])


def _schedules() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", _UUID, nullable=False),
        sa.Column("fisk_id", _UUID, nullable=False),
        sa.Column("interval", sa.BigInteger, nullable=False),
        sa.Column("prefix", _NAME, nullable=False),
        sa.Column("keep_last", sa.Integer, nullable=False),
        sa.Column("keep_hourly", sa.Integer, nullable=False),
        sa.Column("keep_daily", sa.Integer, nullable=False),
        sa.Column("keep_weekly", sa.Integer, nullable=False),
        sa.Column("expire", sa.BigInteger, nullable=True),
        sa.Column("expendable", sa.Boolean, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("next_run", sa.DateTime, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        *_of_fisk("schedules"),
    )
    op.create_index("ix_schedules_fisk_id", "schedules", ["fisk_id"])
    op.create_index("ix_schedules_next_run", "schedules", ["next_run"])


def _tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", _UUID, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("expires", sa.DateTime, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
        sa.UniqueConstraint("name", name="uq_tokens_name"),
    )
