# SPDX-License-Identifier: Apache-2.0
"""Opens the database and gives transactions.

Guarantees: a transaction of ``change()`` is durable when the block ends without error and leaves no trace
otherwise; changes are totally ordered over all processes (``settings.version`` is incremented first, which
takes that row's lock; SQLite takes its one write lock at BEGIN).  ``read()`` sees one consistent state.
Driver exceptions leave as ``fisk_core.errors``.  All that is particular to SQLite is in ``_tune_sqlite``.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    DateTime,
    Engine,
    create_engine,
    event,
    inspect,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.compiler import compiles

from fisk_core import locks
from fisk_core.catalog import schema
from fisk_core.catalog.reserve import Reserve
from fisk_core.errors import AlreadyExists, Corrupt, FiskError, InUse, NoSpace, PoolError, ReadOnly

BUSY_SECONDS = 30
"""How long a transaction waits for another process's before it gives up with InUse."""

KEPT_CONNECTIONS = 8
MORE_CONNECTIONS = 120
"""So many that no thread waits for one: a daemon has up to 128 threads at work."""

_BUMP = (
    update(schema.settings)
    .where(schema.settings.c.key == "version")
    .values(value=schema.settings.c.value + 1)
)
_VERSION = select(schema.settings.c.value).where(schema.settings.c.key == "version")
_CLOCKS = {
    "postgresql": "SELECT clock_timestamp() AT TIME ZONE 'UTC'",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
    "mariadb": "SELECT UTC_TIMESTAMP(6)",
}
_SYMPTOMS: tuple[tuple[str, type[FiskError]], ...] = (
    ("is locked", InUse),
    ("is full", NoSpace),
    ("malformed", Corrupt),
    ("not a database", Corrupt),
    ("readonly", ReadOnly),
)


class Changes:
    """Counts the changes this process made, for those who wait for one; another process's are not seen."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        return self._count

    def tell(self) -> None:
        """Wake those who wait."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout: float) -> int:
        """Return, with the present count, once it is not ``seen`` any more or ``timeout`` seconds passed."""
        with self._condition:
            self._condition.wait_for(lambda: self._count != seen, timeout)
            return self._count


class Catalog:
    """One catalog; may be shared by threads, each transaction having its own connection."""

    def __init__(self, url: str, migration_lock: Path) -> None:
        """Open ``url``; tables that are missing or old are brought up to date under ``migration_lock``."""
        self._reader = _make_engine(url)
        self._reserve = _reserve_of(self._reader)
        self._writer = self._reader.execution_options(fisk_write=True)
        self.changes = Changes()
        self._turn = threading.Lock()
        try:
            self._ensure_current(migration_lock)
        except BaseException:
            self.close()
            raise
        if self._reserve:
            self._reserve.keep()

    @property
    def engine(self) -> Engine:
        return self._reader

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the catalog and changes nothing."""
        with _typed_errors(), self._reader.connect() as conn, conn.begin():
            yield conn

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """Give a connection whose work is committed at the end of the block, in one order with all others."""
        try:
            with self._my_turn(), _typed_errors(), self._writer.connect() as conn, conn.begin():
                conn.execute(_BUMP)
                yield conn
        except NoSpace:
            if self._reserve:
                self._reserve.release()  # so that the next command can delete something
            raise
        self.changes.tell()

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        """Let one thread of this process change something at a time.

        The database would see to that too, but SQLite's waiters sleep and look again, for up to 0.1 seconds:
        with many threads most of the time nobody would be at work.
        """
        if not self._turn.acquire(timeout=BUSY_SECONDS):
            raise InUse("catalog: other threads have been changing it for too long")
        try:
            yield
        finally:
            self._turn.release()

    def version(self) -> int:
        with self.read() as conn:
            return version(conn)

    def damage(self) -> list[str]:
        """Give what is wrong with the database itself, as far as it can be asked for that (SQLite)."""
        if self._reader.dialect.name != "sqlite":
            return []
        with self.read() as conn:
            found = [str(row[0]) for row in conn.execute(text("PRAGMA integrity_check(10)"))]
            strays = conn.execute(text("PRAGMA foreign_key_check")).fetchall()
        found += [f"a row of {row[0]} belongs to none of {row[2]}" for row in strays]
        return [each for each in found if each != "ok"]

    def close(self) -> None:
        self._reader.dispose()

    def _ensure_current(self, migration_lock: Path) -> None:
        if self._revision() == schema.REVISION:
            return
        # Imported only here: alembic takes longer to load than everything a command does.
        from fisk_core.catalog import migrate

        with locks.acquire(migration_lock, timeout=60), _typed_errors():
            if self._revision() != schema.REVISION:
                migrate.upgrade(self._writer)

    def _revision(self) -> str | None:
        with _typed_errors():
            try:
                with self._reader.connect() as conn:
                    found = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
                    return str(found) if found is not None else None
            except DBAPIError:
                if inspect(self._reader).has_table("alembic_version"):
                    raise
                return None


def version(conn: Connection) -> int:
    """The number of changes made so far, as this transaction sees it."""
    return int(conn.execute(_VERSION).scalar_one())


def clock(conn: Connection) -> datetime:
    """Give the time (UTC, without a zone) that leases and schedules go by, for all who share the catalog.

    It is the database server's, at this statement, so that hosts need not agree on theirs; SQLite has no
    server and is used on one host: its clock counts.
    """
    statement = _CLOCKS.get(conn.dialect.name)
    if statement is None:
        return datetime.now(UTC).replace(tzinfo=None)
    found: datetime = conn.execute(text(statement)).scalar_one()
    return found


def raise_version(conn: Connection, least: int) -> None:
    """Count on from ``least`` if that is more: versions must not be given out twice."""
    conn.execute(
        update(schema.settings)
        .where(schema.settings.c.key == "version", schema.settings.c.value <= least)
        .values(value=least + 1)
    )


@compiles(DateTime, "mysql", "mariadb")
def _with_microseconds(*_: Any, **__: Any) -> str:
    """Have times kept as they are: MySQL would round them to seconds, and so end a lock before its time."""
    return "DATETIME(6)"


def _make_engine(url: str) -> Engine:
    # A server may have been restarted, or have hung up on a connection that was idle for hours.
    served = make_url(url).get_backend_name() != "sqlite"
    limits = {"pool_size": KEPT_CONNECTIONS, "max_overflow": MORE_CONNECTIONS}
    engine = create_engine(url, pool_pre_ping=served, **limits)
    if not served:
        _tune_sqlite(engine)
    return engine


def _tune_sqlite(engine: Engine) -> None:
    """Durable commits, readers beside the writer, foreign keys, and the write lock taken at BEGIN.

    A deferred transaction that reads first and writes later could fail half-way with "database is locked", no
    timeout helping; hence BEGIN IMMEDIATE for those that will write.
    """

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # no BEGIN of the driver's own
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        _enter_wal(connection, _reserve_of(engine))
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def on_begin(conn: Connection) -> None:
        writes = conn.get_execution_options().get("fisk_write", False)
        conn.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _reserve_of(engine: Engine) -> Reserve | None:
    path = engine.url.database
    return Reserve(path) if engine.dialect.name == "sqlite" and path else None


def _enter_wal(connection: sqlite3.Connection, reserve: Reserve | None) -> None:
    """Change to write-ahead logging, waiting where two first openers collide: SQLite does not."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if "locked" in str(exc) and time.monotonic() < deadline:
                time.sleep(0.01)
            elif not (reserve and reserve.release()):  # a full disk has no room even to read the catalog
                raise


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError as exc:
        raise AlreadyExists(f"catalog: {exc.orig}") from exc
    except DBAPIError as exc:
        message = str(exc.orig)
        kind = next((kind for symptom, kind in _SYMPTOMS if symptom in message), PoolError)
        raise kind(f"catalog: {message}") from exc
    except (ValueError, TypeError) as exc:
        # SQLite keeps whatever it is given in a column, and gives back whatever damage made of it.
        raise Corrupt(f"catalog: it holds what makes no sense: {exc}") from exc
