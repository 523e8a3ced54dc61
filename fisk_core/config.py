# SPDX-License-Identifier: Apache-2.0
"""Where Fisk keeps its things, and the few options there are.

Everything works without a configuration file.  ``fisk.conf`` in the home directory is read with oslo.config,
which is imported only when the file exists: it takes longer to load than most commands to run.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fisk_core.errors import InvalidValue, from_oserror

DEFAULT_POOL = "default"


@dataclass(frozen=True, slots=True)
class Home:
    """The paths below one FISK_HOME; everything that names a file there asks this class."""

    path: Path

    @classmethod
    def default(cls) -> "Home":
        """``$FISK_HOME``, else the user's data directory."""
        chosen = os.environ.get("FISK_HOME")
        if chosen:
            return cls(Path(chosen).absolute())
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return cls(Path(data) / "fisk")

    def make(self) -> None:
        """Create the directories; only the owner may look into them."""
        try:
            self.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise from_oserror(exc, f"create {self.run}") from exc

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def config_file(self) -> Path:
        return self.path / "fisk.conf"

    def pool(self, name: str) -> Path:
        """Where the pool ``name`` goes when nobody says otherwise."""
        return self.path / "pools" / name

    def lock(self, fisk_id: str) -> Path:
        """Held by those who use the Fisk: exclusively by its writer, shared by readers."""
        return self.run / f"{fisk_id}.lock"

    def operation(self, fisk_id: str) -> Path:
        """Held for the moment in which the Fisk's map or its use changes."""
        return self.run / f"{fisk_id}.op"

    def control(self, fisk_id: str) -> Path:
        """The control socket of the worker that serves the Fisk."""
        return self.run / f"{fisk_id}.ctl"

    def socket(self, fisk_id: str) -> Path:
        """The NBD socket of that worker, unless it was given another."""
        return self.run / f"{fisk_id}.nbd"

    @property
    def making(self) -> Path:
        """Held shared while files exist that the catalog does not name yet, exclusively by the sweeper."""
        return self.run / "making.lock"

    @property
    def migration(self) -> Path:
        return self.run / "migration.lock"


@dataclass(frozen=True, slots=True)
class Settings:
    """The options in effect."""

    connection: str
    default_pool: str


def load(home: Home) -> Settings:
    """Read ``fisk.conf`` if there is one; raises InvalidValue when it cannot be understood."""
    connection, pool = f"sqlite:///{home.path / 'catalog.sqlite'}", DEFAULT_POOL
    if home.config_file.exists():
        options = _parse(home.config_file)
        connection = options.catalog.connection or connection
        pool = options.default_pool
    return Settings(connection, pool)


def _parse(path: Path) -> Any:
    from oslo_config import cfg

    options = cfg.ConfigOpts()
    for group, entries in list_opts():
        options.register_opts(entries, group=group)
    try:
        options(args=[], project="fisk", default_config_files=[str(path)])
    except cfg.Error as exc:
        raise InvalidValue(f"{path}: {exc}") from exc
    return options


def list_opts() -> list[tuple[str | None, Sequence[Any]]]:
    """Give all options, for the program that writes a sample configuration file."""
    from oslo_config import cfg

    return [
        (None, [cfg.StrOpt("default_pool", default=DEFAULT_POOL, help="Pool of Fisks created without one.")]),
        (
            "catalog",
            [
                cfg.StrOpt(
                    "connection",
                    secret=True,
                    help="SQLAlchemy URL of the catalog; a SQLite file in the home directory if unset.",
                )
            ],
        ),
    ]
