# SPDX-License-Identifier: Apache-2.0
"""Where Fisk keeps its things, and what can be set.

Everything works without a configuration file.  ``fisk.conf`` in the home directory is read with oslo.config,
which is imported only when the file exists: it takes longer to load than most commands to run.

A group of options is a dataclass: a field is an option, with its type, default and help.  To add a group,
write one and give it a field in :class:`Settings`.
"""

import os
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from fisk_core import files
from fisk_core.errors import InvalidValue, PoolError, from_oserror

DEFAULT_POOL = "default"


@dataclass(frozen=True, slots=True)
class Home:
    """The paths below one FISK_HOME; everything that names a file there asks this class.

    ``shared`` is the directory of the files that exclude the processes of all hosts; None: the one where
    this host's own run-time files are, too.
    """

    path: Path
    shared: Path | None = None

    @classmethod
    def default(cls) -> "Home":
        """``$FISK_HOME``, else the user's data directory."""
        chosen = os.environ.get("FISK_HOME")
        if chosen:
            return cls(Path(chosen).absolute())
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return cls(Path(data) / "fisk")

    def make(self) -> None:
        """Create the directories, durably; only the owner may look into them."""
        for path in (self.run, self.lock_path):
            try:
                _make_directory(path, 0o700)
            except FileExistsError as exc:
                raise PoolError(f"create {path}: there is a file where a directory has to be") from exc
            except OSError as exc:
                raise from_oserror(exc, f"create {path}") from exc

    @property
    def run(self) -> Path:
        """Sockets, and what else is this host's alone."""
        return self.path / "run"

    @property
    def lock_path(self) -> Path:
        """Lock files and fences: one directory for all hosts that share the catalog."""
        return self.shared or self.run

    @property
    def config_file(self) -> Path:
        return self.path / "fisk.conf"

    def pool(self, name: str) -> Path:
        """Where the pool ``name`` goes when nobody says otherwise."""
        return self.path / "pools" / name

    def lock(self, fisk_id: str) -> Path:
        """Held by those who use the Fisk: exclusively by its writer, shared by readers."""
        return self.lock_path / f"{fisk_id}.lock"

    def operation(self, fisk_id: str) -> Path:
        """Held for the moment in which the Fisk's map or its use changes."""
        return self.lock_path / f"{fisk_id}.op"

    @property
    def trimming(self) -> Path:
        """Held by the collector while it decides and punches; shared by who gives blocks to older layers."""
        return self.lock_path / "trimming.lock"

    def fence(self, fisk_id: str) -> Path:
        """Says which epoch of its lease may still write, in decimal digits."""
        return self.lock_path / f"{fisk_id}.fence"

    def incoming(self, fisk_id: str) -> Path:
        """Says that another host waits for the Fisk's writer to let go, and under which token."""
        return self.lock_path / f"{fisk_id}.incoming"

    def outgoing(self, fisk_id: str) -> Path:
        """Says where that one finds what the writer has made durable."""
        return self.lock_path / f"{fisk_id}.outgoing"

    def mark(self, fisk_id: str) -> Path:
        """Says that the Fisk's worker on this host is supervised, and how it is served."""
        return self.run / f"{fisk_id}.worker"

    def direct(self, fisk_id: str) -> Path:
        """Says that a file of the Fisk was handed out: nobody else may write, locked or not."""
        return self.lock_path / f"{fisk_id}.direct"

    def journal(self, map_id: str) -> Path:
        """The map changes of a period that its writer, on this host, has not flushed yet."""
        return self.run / f"{map_id}.journal"

    def control(self, fisk_id: str) -> Path:
        """The control socket of the worker that serves the Fisk."""
        return self.run / f"{fisk_id}.ctl"

    def socket(self, fisk_id: str) -> Path:
        """The NBD socket of that worker, unless it was given another."""
        return self.run / f"{fisk_id}.nbd"

    def reader(self, fisk_id: str) -> Path:
        """The NBD socket of that worker at which nothing can be written."""
        return self.run / f"{fisk_id}.ro"

    def details(self, attachment_id: str) -> Path:
        """The directory of an access path's own files."""
        return self.run / "access" / attachment_id

    def note(self, attachment_id: str) -> Path:
        """What an access path made, in case its row is gone."""
        return self.run / "access" / f"{attachment_id}.json"

    @property
    def exports(self) -> Path:
        """The directory that tells the acceptor which worker serves an export name."""
        return self.run / "exports"

    @property
    def secret(self) -> Path:
        """What export names are made with."""
        return self.run / "secret"

    @property
    def acceptor(self) -> Path:
        """The control socket of the process that listens on the network."""
        return self.run / "acceptor.ctl"

    @property
    def supervisor(self) -> Path:
        """Held by the process that supervises the workers of this home."""
        return self.run / "supervisor.lock"

    @property
    def making(self) -> Path:
        """Held shared while files exist that the catalog does not name yet, exclusively by the sweeper."""
        return self.lock_path / "making.lock"

    @property
    def migration(self) -> Path:
        return self.lock_path / "migration.lock"


def _make_directory(path: Path, mode: int = 0o777) -> None:
    """Make a directory and those missing above it, each durable in the one above.

    Else a power loss could take all of a new home away, with what is durable inside.
    """
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(mode, exist_ok=True)
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def option(default: Any, help: str, **particular: Any) -> Any:
    """Give a field that is an option; ``particular`` are further arguments of the oslo.config class."""
    return field(default=default, metadata={"help": help, **particular})


@dataclass(frozen=True, slots=True)
class Defaults:
    """Group ``[DEFAULT]``."""

    default_pool: str = option(DEFAULT_POOL, "Pool of Fisks created without one.")
    host: str = option("", "Name of this host among those that share the catalog; its node name if unset.")
    lock_path: str = option(
        "",
        "Directory of lock files and fences. Hosts that share a catalog share this directory, on a file "
        "system whose locks work between them (NFSv4 does). The home's own run directory if unset.",
    )


@dataclass(frozen=True, slots=True)
class CatalogSettings:
    """Group ``[catalog]``."""

    connection: str = option(
        "", "SQLAlchemy URL of the catalog; a SQLite file in the home directory if unset.", secret=True
    )


@dataclass(frozen=True, slots=True)
class NbdSettings:
    """Group ``[nbd]``: attached Fisks over TCP."""

    listen: str = option(
        "127.0.0.1:10809",
        "HOST:PORT where all attached Fisks can be reached, each by an export name that is its secret; "
        "port 0 takes a free one. Empty: not over TCP.",
    )
    tls_dir: str = option(
        "",
        "Directory with server-cert.pem and server-key.pem; clients must use TLS then.",
    )
    tls_verify: bool = option(False, "Ask clients for certificates of ca-cert.pem in tls_dir.")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Group ``[workers]``; all are seconds."""

    reader_linger: float = option(
        60.0, "How long the worker of a frozen Fisk stays after its last reader left.", min=0
    )
    drain_seconds: float = option(
        10.0, "How long clients that ask without end are listened to when a worker is stopped.", min=0
    )
    fence_seconds: float = option(
        15.0, "How long taking a Fisk over waits for the host that has it to let go.", min=0
    )
    longest_pause: float = option(
        30.0, "The longest pause before a worker that ends again and again is started again.", min=0.1
    )
    healthy_seconds: float = option(
        60.0, "A worker that ran so long is started again at once when it ends.", min=0
    )
    build_idle: float = option(
        900.0, "A build that no client was connected to for so long is removed.", min=1
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The options in effect: one field for each group."""

    defaults: Defaults = field(default=Defaults(), metadata={"group": None})
    catalog: CatalogSettings = field(default=CatalogSettings(), metadata={"group": "catalog"})
    nbd: NbdSettings = field(default=NbdSettings(), metadata={"group": "nbd"})
    workers: WorkerSettings = field(default=WorkerSettings(), metadata={"group": "workers"})

    @property
    def default_pool(self) -> str:
        return self.defaults.default_pool

    @property
    def host(self) -> str:
        return self.defaults.host or os.uname().nodename

    def connection(self, home: Home) -> str:
        return self.catalog.connection or f"sqlite:///{home.path / 'catalog.sqlite'}"

    def home(self, home: Home) -> Home:
        """Give the home with the lock directory that was chosen."""
        chosen = self.defaults.lock_path
        return Home(home.path, Path(chosen).absolute()) if chosen else home


def load(home: Home) -> Settings:
    """Read ``fisk.conf`` if there is one; raises InvalidValue when it cannot be understood."""
    if not files.exists(home.config_file):
        return Settings()
    return Settings(**_parse(home.config_file))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _groups() -> list[tuple[str, str | None, type[Any]]]:
    """Give (field of Settings, group, dataclass) of every group."""
    kinds = get_type_hints(Settings)
    return [(each.name, each.metadata["group"], kinds[each.name]) for each in fields(Settings)]


def _parse(path: Path) -> dict[str, Any]:
    """Give the values of all groups, by the fields of Settings."""
    from oslo_config import cfg

    options = cfg.ConfigOpts()
    for group, entries in list_opts():
        options.register_opts(entries, group=group)
    groups: dict[str, Any] = {}
    try:
        options(args=[], project="fisk", default_config_files=[str(path)])
        for name, group, kind in _groups():
            values = options[group] if group else options
            groups[name] = kind(**{each.name: _plain(values[each.name]) for each in fields(kind)})
    except cfg.Error as exc:
        raise InvalidValue(f"{path}: {exc}") from exc
    return groups


def list_opts() -> list[tuple[str | None, Sequence[Any]]]:
    """Give all options, for the program that writes a sample configuration file."""
    return [(group, [_option(each) for each in fields(kind)]) for _, group, kind in _groups()]


def _option(each: "Field[Any]") -> Any:
    from oslo_config import cfg

    kinds: dict[Any, Any] = {
        str: cfg.StrOpt,
        int: cfg.IntOpt,
        float: cfg.FloatOpt,
        bool: cfg.BoolOpt,
        tuple[str, ...]: cfg.ListOpt,
    }
    default = list(each.default) if isinstance(each.default, tuple) else each.default
    return kinds[each.type](each.name, default=default, **each.metadata)
