# SPDX-License-Identifier: Apache-2.0
"""The first schema; what the tables mean is written in ``fisk_core.catalog.schema``."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_UUID = sa.String(36)
_NAME = sa.String(255)


def upgrade() -> None:
    _settings_and_pools()
    _maps_and_layers()
    _fisks()
    _details()


def _settings_and_pools() -> None:
    settings = op.create_table(
        "settings",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_settings"),
    )
    op.bulk_insert(settings, [{"key": "version", "value": 0}])
    op.create_table(
        "pools",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("uuid", _UUID, nullable=False),
        sa.Column("driver", sa.String(64), nullable=False),
        sa.Column("class_path", _NAME, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pools"),
        sa.UniqueConstraint("name", name="uq_pools_name"),
        sa.UniqueConstraint("uuid", name="uq_pools_uuid"),
    )


def _maps_and_layers() -> None:
    op.create_table(
        "maps",
        sa.Column("num", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("id", _UUID, nullable=False),
        sa.Column("pool_id", sa.Integer, nullable=False),
        sa.Column("base", _UUID, nullable=True),
        sa.Column("base_size", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=True),
        sa.Column("writer", _UUID, nullable=False),
        sa.Column("opened", sa.Boolean, nullable=False),
        sa.Column("sealed", sa.Boolean, nullable=False),
        sa.Column("has_blob", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("num", name="pk_maps"),
        sa.UniqueConstraint("id", name="uq_maps_id"),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name="fk_maps_pool_id_pools"),
        sa.ForeignKeyConstraint(["base"], ["maps.id"], name="fk_maps_base_maps"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_maps_base", "maps", ["base"])
    op.create_index("ix_maps_unsettled", "maps", ["has_blob", "opened"])
    op.create_table(
        "layers",
        sa.Column("num", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("id", _UUID, nullable=False),
        sa.Column("pool_id", sa.Integer, nullable=False),
        sa.Column("frozen", sa.Boolean, nullable=False),
        sa.Column("suspect", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("num", name="pk_layers"),
        sa.UniqueConstraint("id", name="uq_layers_id"),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name="fk_layers_pool_id_pools"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_layers_suspect", "layers", ["suspect"])
    op.create_table(
        "map_layers",
        sa.Column("map", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("layer", sa.Integer, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("map", "layer", name="pk_map_layers"),
        sa.ForeignKeyConstraint(["map"], ["maps.num"], name="fk_map_layers_map_maps"),
        sa.ForeignKeyConstraint(["layer"], ["layers.num"], name="fk_map_layers_layer_layers"),
    )
    op.create_index("ix_map_layers_layer", "map_layers", ["layer"])


def _fisks() -> None:
    op.create_table(
        "fisks",
        sa.Column("id", _UUID, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("pool_id", sa.Integer, nullable=False),
        sa.Column("map_id", _UUID, nullable=False),
        sa.Column("next_map", _UUID, nullable=True),
        sa.Column("parent_id", _UUID, nullable=True),
        sa.Column("block_size", sa.Integer, nullable=False),
        sa.Column("page_size", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("published", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fisks"),
        sa.UniqueConstraint("name", name="uq_fisks_name"),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name="fk_fisks_pool_id_pools"),
        sa.ForeignKeyConstraint(["map_id"], ["maps.id"], name="fk_fisks_map_id_maps"),
        sa.ForeignKeyConstraint(["next_map"], ["maps.id"], name="fk_fisks_next_map_maps"),
    )
    for column in ("state", "role", "map_id", "next_map", "parent_id"):
        op.create_index(f"ix_fisks_{column}", "fisks", [column])


def _details() -> None:
    op.create_table(
        "attributes",
        sa.Column("fisk_id", _UUID, nullable=False),
        sa.Column("key", _NAME, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("fisk_id", "key", name="pk_attributes"),
        _of_fisk("attributes"),
    )
    op.create_table(
        "leases",
        sa.Column("fisk_id", _UUID, nullable=False),
        sa.Column("holder", _NAME, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.DateTime, nullable=True),
        sa.PrimaryKeyConstraint("fisk_id", name="pk_leases"),
        _of_fisk("leases"),
    )


def _of_fisk(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_fisk_id_fisks"
    return sa.ForeignKeyConstraint(["fisk_id"], ["fisks.id"], name=name, ondelete="CASCADE")


def downgrade() -> None:
    for table in ("leases", "attributes", "fisks", "map_layers", "layers", "maps", "pools", "settings"):
        op.drop_table(table)
