# SPDX-License-Identifier: Apache-2.0
"""MariaDB, with a data directory and a socket of its own."""

from collections.abc import Sequence
from pathlib import Path

from devstack.ministack.errors import MinistackError
from devstack.ministack.place import PORTS
from devstack.ministack.processes import call
from devstack.ministack.services.base import Service

DATABASES = ("keystone", "glance", "placement", "cinder", "neutron", "nova_api", "nova", "nova_cell0")


class MariaDB(Service):
    """The database server; only root's own connections over loopback, without a pass word."""

    name = "mariadb"

    def start(self) -> None:
        """Make the data directory when there is none, and start."""
        directory = self.place.data / "mariadb"
        if not (directory / "mysql").is_dir():
            call(
                ["mariadb-install-db", "--no-defaults", f"--datadir={directory}", "--user=root",
                 "--auth-root-authentication-method=normal", "--skip-test-db"],
                log=self.place.log / "mariadb.out",
            )  # fmt: skip
        self.daemons.start(
            self.name,
            ["mariadbd", "--no-defaults", "--user=root", f"--datadir={directory}",
             "--bind-address=127.0.0.1", f"--port={PORTS['mariadb']}", f"--socket={self.socket}",
             f"--pid-file={directory}/pid", "--max-connections=800", "--character-set-server=utf8mb4",
             # A power cut may cost the last second of a test bed; a flush for every request costs minutes.
             "--innodb-flush-log-at-trx-commit=2", "--skip-log-bin", "--innodb-buffer-pool-size=256M"],
        )  # fmt: skip

    @property
    def socket(self) -> str:
        """The server's socket, named as seen from the directory it works in: such names must be short."""
        return "mariadb.sock"

    def ready(self) -> bool:
        """Whether it answers a statement."""
        try:
            self.execute("SELECT 1")
        except MinistackError:
            return False
        return True

    def execute(self, statements: str) -> str:
        """Run SQL as root and give what it prints."""
        return call(
            ["mariadb", "--no-defaults", "--batch", "--skip-column-names", *self._to_server], stdin=statements
        )

    @property
    def _to_server(self) -> list[str]:
        return ["-u", "root", "-h", "127.0.0.1", "-P", str(PORTS["mariadb"])]

    def create_databases(self) -> bool:
        """Make the databases of all services; gives whether there was none of them."""
        empty = self.execute("SHOW DATABASES LIKE 'nova_api'") == ""
        self.create(DATABASES)
        return empty

    def create(self, databases: Sequence[str], collation: str = "utf8mb4_general_ci") -> None:
        """Make databases that are missing, whose texts are compared by a collation."""
        self.execute(
            "".join(f"CREATE DATABASE IF NOT EXISTS {name} COLLATE {collation};\n" for name in databases)
        )

    def drop(self, databases: Sequence[str]) -> None:
        """Remove databases with all that is in them."""
        self.execute("".join(f"DROP DATABASE IF EXISTS {name};\n" for name in databases))

    def save(self, file: Path, databases: Sequence[str]) -> None:
        """Write SQL that makes ``databases`` as they are now."""
        half = file.with_suffix(".new")
        words = ["mariadb-dump", "--no-defaults", *self._to_server, f"--result-file={half}", "--databases"]
        call([*words, *databases])
        half.replace(file)

    def restore(self, file: Path) -> None:
        """Run the SQL in a file that ``save`` has written."""
        self.execute(f"SOURCE {file}\n")
