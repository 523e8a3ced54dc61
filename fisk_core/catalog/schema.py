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

REVISION = "0002"
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
    storage or a worker that has seen epoch *n* refuses *n - 1*.  The lock file decides whether the
    holder still lives; ``expires`` is not used by locks that end with their process, and NULL.""",
)

attachments = Table(
    "attachments",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("fisk_id", ForeignKey("fisks.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("host", NAME, nullable=False, index=True),
    Column("access", String(32), nullable=False),
    Column("read_only", Boolean, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("consumer", NAME, nullable=False),
    Column("details", JSON, nullable=False),
    Column("created_at", DateTime, nullable=False),
    comment="""One consumer's use of a Fisk on one host.  The row is written before the worker is started
    and removed after its use ended, so a host that comes back knows what it has to have running.  ``epoch``
    is that of the writer lease (0: a reader): a row with an older epoch than the lease lost the Fisk to
    another host.  ``details`` are the access path's own, what it needs to undo itself.""",
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("host", NAME, nullable=False),
    Column("arguments", JSON, nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=True),
    Column("result", JSON, nullable=True),
    Column("error", JSON, nullable=True),
    Column("cancelling", Boolean, nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("updated_at", DateTime, nullable=False, index=True),
    comment="""Long work.  ``host`` does it.  Every kind can be begun again from its ``arguments`` alone, ids
    of what it makes included, so a job found running when its host starts is simply run again.""",
)

events = Table(
    "events",
    metadata,
    Column("num", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(64), nullable=False),
    Column("fisk_id", UUID, nullable=True),
    Column("data", JSON, nullable=False),
    Column("at", DateTime, nullable=False, index=True),
    sqlite_autoincrement=True,
    comment="""What happened, for those who follow it; old rows are removed.  An event of a change is written
    in that change's own transaction.  No foreign key: the Fisk may be gone.""",
)

range_locks = Table(
    "range_locks",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("fisk_id", ForeignKey("fisks.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("shared", Boolean, nullable=False),
    Column("owner", NAME, nullable=False),
    Column("expires", DateTime, nullable=False),
    Column("waiting", Boolean, nullable=False),
    Column("ticket", BigInteger, nullable=False),
    comment="""Byte ranges of a Fisk locked by cooperating clients.  Of two rows of one Fisk that overlap,
    both are shared, or one has expired, or one is ``waiting``: asked for and not granted yet.  Those get it
    in the order of their ``ticket``, which is ``settings.version`` of the transaction that asked.""",
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("fisk_id", ForeignKey("fisks.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("interval", BigInteger, nullable=False),
    Column("prefix", NAME, nullable=False),
    Column("keep_last", Integer, nullable=False),
    Column("keep_hourly", Integer, nullable=False),
    Column("keep_daily", Integer, nullable=False),
    Column("keep_weekly", Integer, nullable=False),
    Column("expire", BigInteger, nullable=True),
    Column("expendable", Boolean, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("next_run", DateTime, nullable=False, index=True),
    Column("created_at", DateTime, nullable=False),
    comment="""When snapshots of a Fisk are taken, and which are kept.  Which snapshots are a schedule's own
    is told by their attribute ``fisk:schedule``.  ``next_run`` is moved on in the transaction that claims a
    run, so that of several hosts one takes it.""",
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", DateTime, nullable=False),
    Column("expires", DateTime, nullable=True),
    comment="""Bearer tokens of the API.  ``digest`` is SHA-256 of the secret, which has 256 bits of its own:
    a slow hash would protect nothing more.""",
)
