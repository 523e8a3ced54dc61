# SPDX-License-Identifier: Apache-2.0
"""The tables.  What the rows mean is written here; the migrations only repeat the shapes.

General rules:

- Ids are UUIDs made by uuid4 and never used again: an id, once seen, always means the same bytes.
- Sizes and offsets are bytes.  Times are UTC without a zone.
- Every transaction that changes anything first increments ``settings.version``.  That row is thereby also the
  lock that puts all changes into one order, on every database.
- Files are made durable before the transaction that names them, and removed after the transaction that
  forgets them.  So a row never names a file that is missing, and a file without a row is rubbish.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

REVISION = "0001"
"""The newest migration; a catalog that says so needs no alembic."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

UUID = String(36)
NAME = String(255)

settings = Table(
    "settings",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
    comment="""Numbers the catalog keeps about itself.  ``version`` counts the changes ever made: two reads
    that see the same version saw the same catalog, which is how the collector knows that nothing moved
    under it.""",
)

pools = Table(
    "pools",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("uuid", UUID, nullable=False, unique=True),
    Column("driver", String(64), nullable=False),
    Column("class_path", NAME, nullable=False),
    Column("options", JSON, nullable=False),
    Column("created_at", DateTime, nullable=False),
    comment="""Where layers, logs and blobs persist.  ``uuid`` is the one in the pool's own header, so a
    pool that was swapped under its path is noticed.  ``class_path`` is ``module:Class`` where the driver
    was found last, a hint that saves the search among the entry points.  ``options`` are the driver's own,
    e.g.  ``{"path": "/srv/fisk"}``.""",
)

maps = Table(
    "maps",
    metadata,
    Column("num", Integer, primary_key=True, autoincrement=True),
    Column("id", UUID, nullable=False, unique=True),
    Column("pool_id", ForeignKey("pools.id"), nullable=False),
    Column("base", ForeignKey("maps.id"), nullable=True, index=True),
    Column("base_size", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=True),
    Column("writer", UUID, nullable=False),
    Column("opened", Boolean, nullable=False),
    Column("sealed", Boolean, nullable=False),
    Column("has_blob", Boolean, nullable=False),
    Index("ix_maps_unsettled", "has_blob", "opened"),
    sqlite_autoincrement=True,
    comment="""A block map, which is one period of writing: ``map(base)`` cut to ``base_size``, with the
    changes of the period's log on top.  The period's layer and log have the same id.

    A row is kept while a Fisk points to it (``fisks.map_id``, ``fisks.next_map``) or another row is based
    on it.

    ``opened = 0``: nobody has written yet and there are **no files**; the map reads as its base, or as
    zeros when it has none.  Such a row is never sealed and never a base.  ``opened = 1``: log and layer
    (or, later, the blob) exist; if they do not, that is corruption and never an empty disk.

    ``sealed = 1``: nobody writes here any more, and what was written is durable.  ``size`` is then the size
    of the Fisk at that moment (NULL before).  An opened, unsealed map that no Fisk points to is a snapshot
    that was interrupted: ``writer``, the id of the Fisk whose period this is, says who must let go of it
    (no foreign key, the Fisk may be gone).

    ``has_blob = 1``: the whole map is in one compressed blob; ``base`` is NULL from then on and the log is
    gone.""",
)

layers = Table(
    "layers",
    metadata,
    Column("num", Integer, primary_key=True, autoincrement=True),
    Column("id", UUID, nullable=False, unique=True),
    Column("pool_id", ForeignKey("pools.id"), nullable=False),
    Column("frozen", Boolean, nullable=False),
    Column("suspect", Boolean, nullable=False, index=True),
    sqlite_autoincrement=True,
    comment="""A data file, written during one period.  ``frozen = 1`` since that period was sealed: no byte
    of it changes any more, only the collector may punch blocks that no map points to.  ``suspect = 1``: a
    map that named the layer is gone or was cut, so it may hold such blocks; the collector clears the flag
    when it has looked.  A layer that no map names has no row: the row goes in the transaction that drops
    the last reference, then the file.""",
)

map_layers = Table(
    "map_layers",
    metadata,
    Column("map", ForeignKey("maps.num"), primary_key=True, autoincrement=False),
    Column("layer", ForeignKey("layers.num"), primary_key=True, autoincrement=False, index=True),
    comment="""Which layers a map names.  A map with a blob names every layer in the blob's table; an opened
    map without one names its own layer only, the others being named by its base, which it keeps alive.
    Small integers instead of UUIDs: a thousand snapshots in a row make half a million of these rows.""",
)

fisks = Table(
    "fisks",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("role", String(64), nullable=False, index=True),
    Column("pool_id", ForeignKey("pools.id"), nullable=False),
    Column("map_id", ForeignKey("maps.id"), nullable=False, index=True),
    Column("next_map", ForeignKey("maps.id"), nullable=True, index=True),
    Column("parent_id", UUID, nullable=True, index=True),
    Column("block_size", Integer, nullable=False),
    Column("page_size", Integer, nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("published", Integer, nullable=False),
    comment="""A set of blocks with a name.  ``state`` is ``live`` (its map is an unsealed period of its
    own), ``frozen`` (a sealed map, perhaps shared with other Fisks) or ``building`` (an import under way:
    hidden, holds its name; whoever finds its lock free removes it).

    ``next_map`` is NULL except while a served Fisk is being reverted or shrunk: the map its worker was told
    to continue in.  Whether it did is asked of the worker, or read off the new log; see the engine's notes
    on crash windows.

    ``parent_id`` is lineage for people.  It has no foreign key because nothing depends on it: the parent
    may be gone.

    ``revision`` counts changes of this row and its attributes; ``published`` is the revision of the copy in
    the pool (0: none) from which a lost catalog can be rebuilt.""",
)

attributes = Table(
    "attributes",
    metadata,
    Column("fisk_id", ForeignKey("fisks.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
    comment="Free-form labels of a Fisk; the engine never interprets them.",
)

leases = Table(
    "leases",
    metadata,
    Column("fisk_id", ForeignKey("fisks.id", ondelete="CASCADE"), primary_key=True),
    Column("holder", NAME, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires", DateTime, nullable=True),
    comment="""The last writer of a Fisk.  ``epoch`` rises by one at every open for writing and never falls:
    storage or a worker that has seen epoch *n* refuses *n - 1*.  ``expires`` NULL: the holder is of this
    host and the lock file decides whether it still lives.""",
)
