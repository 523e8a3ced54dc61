# SPDX-License-Identifier: Apache-2.0
"""What every operation needs: the home directory, the catalog, open pools, and the work left for later.

May be used by several threads at once.
"""

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisk_core import config, locks
from fisk_core.blockmap import BlockMap, Geometry, empty_map, load_map
from fisk_core.catalog import Catalog, Record, fisks
from fisk_core.catalog import pools as pool_rows
from fisk_core.catalog.schema import pools
from fisk_core.engine.background import Background
from fisk_core.errors import AlreadyExists, Corrupt, InvalidValue, NotFound
from fisk_core.pools import create_pool
from fisk_core.pools import open_pool as _open
from fisk_core.pools.base import Kind, Pool

LOG = logging.getLogger(__name__)

_ATTEMPTS = 5
MAKING_SECONDS = 60
"""How long making a file waits for a sweep to end."""


class Context(ABC):
    """One open engine, without its verbs; the engine says what ``settler`` does."""

    settler: Background

    def __init__(self, home: Path | None = None) -> None:
        """Open the home directory, creating it; raises FiskError."""
        place = config.Home(Path(home).absolute()) if home else config.Home.default()
        self.settings = config.load(place)
        self.home = self.settings.home(place)
        self.home.make()
        self.catalog = Catalog(self.settings.connection(self.home), self.home.migration)
        self._pools: dict[str, Pool] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Finish background work and close the catalog; a second call does nothing."""
        self.settler.close()
        self.catalog.close()

    @property
    def holder(self) -> str:
        """How this process is named in leases: its host and its id there."""
        return f"{self.settings.host}:{os.getpid()}"

    def find(self, ref: str) -> Record:
        """Give the row of a Fisk; raises NotFound."""
        with self.catalog.read() as conn:
            return fisks.find(conn, ref)

    def making(self) -> locks.Lock:
        """Hold this while a file exists that no transaction names yet: it keeps the sweeper away."""
        return locks.acquire(self.home.making, shared=True, timeout=MAKING_SECONDS)

    def load_map(self, record: Record) -> BlockMap:
        """Give the map a Fisk reads through; raises NotFound or Corrupt."""
        for attempt in range(_ATTEMPTS):
            if record.readable_map is None:
                break
            try:
                return load_map(self.open_pool(record.pool), record.readable_map, record.size)
            except NotFound:
                # A map of the chain below was just consolidated, and what it no longer needs removed.
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.01 * attempt)
                with self.catalog.read() as conn:
                    record = fisks.find(conn, record.id, building=True)
        return empty_map(Geometry(record.block_size, record.page_size), record.size)

    @abstractmethod
    def finish(self, ref: str) -> None:
        """Finish what an interrupted operation on a Fisk left half done."""

    def records(self, pool: str) -> list[Record]:
        """Give the rows of all Fisks of a pool, those being built too."""
        with self.catalog.read() as conn:
            return fisks.records(conn, pools.c.name == pool)

    # Pools

    def pool_names(self) -> list[str]:
        with self.catalog.read() as conn:
            return [row.name for row in pool_rows.every(conn)]

    def open_pool(self, name: str | None = None) -> Pool:
        """Give an open pool, the default one (made at its first use) if no name is given; raises NotFound."""
        name = name or self.settings.default_pool
        found = self._pools.get(name)
        if found is None:
            with self._lock:
                found = self._pools[name] = self._open_pool(name)
        return found

    def pool_row(self, name: str | None = None) -> pool_rows.PoolRow:
        """Give a pool's row; makes the default pool at its first use."""
        pool = self.open_pool(name)
        with self.catalog.read() as conn:
            return pool_rows.find(conn, pool.name)

    def _open_pool(self, name: str) -> Pool:
        try:
            with self.catalog.read() as conn:
                row = pool_rows.find(conn, name)
        except NotFound:
            if name != self.settings.default_pool:
                raise
            return self.add_pool(name, "file", {}, again=True)
        pool = self._open_row(row)
        if pool.id != row.uuid:
            raise Corrupt(f"pool '{name}' has id {pool.id}, the catalog knows it as {row.uuid}")
        return pool

    def _open_row(self, row: pool_rows.PoolRow) -> Pool:
        """Open a pool where its class was found last; where it has moved, look for it again."""
        spec = {"driver": row.driver, "name": row.name, "options": row.options}
        try:
            return _open({**spec, "class": row.class_path})
        except InvalidValue:
            pool = _open(spec)
        with self.catalog.change() as conn:
            pool_rows.set_class(conn, row.name, pool.spec()["class"])
        return pool

    def pool_options(self, name: str, driver: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Give a pool's options with what the home directory decides for it."""
        default = {"path": str(self.home.pool(name))} if driver == "file" else {}
        return {**default, **options}

    def add_pool(self, name: str, driver: str, options: Mapping[str, Any], *, again: bool = False) -> Pool:
        """Make a pool and note it; ``again``: one that another process made meanwhile will do."""
        complete = self.pool_options(name, driver, options)
        with locks.acquire(self.home.lock_path / "pools.lock", timeout=MAKING_SECONDS):
            with self.catalog.read() as conn:
                known = {row.name: row for row in pool_rows.every(conn)}
            if name in known:
                if not again:
                    raise AlreadyExists(f"there is a pool '{name}' already")
                return self._open_row(known[name])
            try:
                pool = create_pool(driver, name, complete)
            except AlreadyExists as exc:
                found = self._unnoted(name, driver, options) if again else None
                if found is None:
                    raise AlreadyExists(f"{exc}; 'fisk pool rescan {name}' takes what it holds over") from exc
                pool = found
            self._note_pool(pool)
            return pool

    def _unnoted(self, name: str, driver: str, options: Mapping[str, Any]) -> Pool | None:
        """Give the pool that is there, if it can be what a crash left before the catalog knew of it.

        Only an empty one: what another holds would be rubbish to this catalog, which names none of it.
        """
        pool = self.find_pool(name, driver, options)
        held = (each for names in (*map(pool.list_devices, Kind), pool.list_blobs()) for each in names)
        return pool if next(held, None) is None else None

    def change_pool(self, name: str, changes: Mapping[str, Any]) -> None:
        """Give a pool other options; raises NotFound, InvalidValue.

        First the pool's own record of them, which counts when the catalog is lost, then the catalog, which
        counts otherwise.  A crash in between leaves what was in force; doing it again is harmless.
        """
        with locks.acquire(self.home.lock_path / "pools.lock", timeout=MAKING_SECONDS):
            with self.catalog.read() as conn:
                pool_rows.find(conn, name)
            options = self.open_pool(name).set_options(changes)
            with self.catalog.change() as conn:
                pool_rows.set_options(conn, name, options)

    def find_pool(self, name: str, driver: str, options: Mapping[str, Any]) -> Pool:
        """Open a pool that exists but is not in the catalog; raises NotFound."""
        return _open({"driver": driver, "name": name, "options": self.pool_options(name, driver, options)})

    def _note_pool(self, pool: Pool) -> None:
        with self.catalog.change() as conn:
            pool_rows.add(conn, pool.id, pool.spec())
