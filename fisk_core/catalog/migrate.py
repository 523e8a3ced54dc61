# SPDX-License-Identifier: Apache-2.0
"""Brings a catalog to the newest schema with alembic; all or nothing where the database can roll back DDL."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Engine

from fisk_core.errors import Unsupported


def config() -> Config:
    """The alembic configuration, which lives in code: there is no alembic.ini to lose."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return settings


def upgrade(engine: Engine) -> None:
    """Apply what is missing; raises Unsupported when the catalog was written by a newer Fisk."""
    settings = config()
    with engine.begin() as conn:
        settings.attributes["connection"] = conn
        try:
            command.upgrade(settings, "head")
        except CommandError as exc:
            raise Unsupported(f"the catalog was written by a newer Fisk: {exc}") from exc
