# SPDX-License-Identifier: Apache-2.0
"""The tables of every service, made by its own tool."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from devstack.ministack.errors import MinistackError
from devstack.ministack.place import PORTS, Place
from devstack.ministack.processes import call
from devstack.ministack.services.database import DATABASES, MariaDB

SERVICES = ("cinder", "glance", "keystone", "neutron", "nova", "openstack-placement")


def prepare(place: Place, database: MariaDB) -> None:
    """Make or bring up to date the tables of all services.

    Those of empty databases are restored from what was saved when the same versions of the services made them
    first: migrations of many years take half a minute.
    """
    saved = place.directory.parent / f"tables-{digest()}.sql"
    empty = database.create_databases()
    if empty and saved.exists():
        try:
            database.restore(saved)
        except MinistackError:
            database.drop(DATABASES)  # half of it would look as if it could be migrated
            saved.unlink()
            raise
        return
    with ThreadPoolExecutor(3) as pool:  # they spend half their time waiting for the database
        steps = (_nova, _neutron, _cinder, _keystone, _glance, _placement)
        for done in [pool.submit(step, place) for step in steps]:
            done.result()
    if empty:
        for old in saved.parent.glob("tables-*.sql"):
            old.unlink()
        database.save(saved, DATABASES)


def digest() -> str:
    """Give what names the versions of all that makes tables or fills them."""
    names = (*SERVICES, "alembic", "SQLAlchemy")
    installed = "".join(f"{name} {version(name)}\n" for name in names)
    return hashlib.sha256(installed.encode() + Path(__file__).read_bytes()).hexdigest()[:16]


def _nova(place: Place) -> None:
    manage = _tool(place, "nova-manage", "nova/nova.conf")
    manage("api_db", "sync")
    cell0 = f"mysql+pymysql://root@127.0.0.1:{PORTS['mariadb']}/nova_cell0?charset=utf8mb4"
    manage("cell_v2", "map_cell0", "--database_connection", cell0)
    manage("db", "sync")
    if "ministack" not in manage("cell_v2", "list_cells"):
        manage("cell_v2", "create_cell", "--name", "ministack")


def _keystone(place: Place) -> None:
    _tool(place, "keystone-manage", "keystone/keystone.conf")("db_sync")


def _neutron(place: Place) -> None:
    _tool(place, "neutron-db-manage", "neutron/neutron.conf")("upgrade", "heads")


def _cinder(place: Place) -> None:
    _tool(place, "cinder-manage", "cinder/cinder.conf")("db", "sync")


def _glance(place: Place) -> None:
    _tool(place, "glance-manage", "glance/glance-api.conf")("db_sync")
    metadata = place.venv / "etc" / "glance" / "metadefs"
    _tool(place, "glance-manage", "glance/glance-api.conf")("db_load_metadefs", str(metadata))


def _placement(place: Place) -> None:
    _tool(place, "placement-manage", "placement/placement.conf")("db", "sync")


def _tool(place: Place, name: str, config: str) -> Callable[..., str]:
    program: list[str | Path] = [place.venv / "bin" / name, "--config-file", place.etc / config]
    return lambda *words: call([*program, *words], log=place.log / f"{name}.out")


def find_hosts(place: Place) -> None:
    """Tell Nova's API of new compute hosts."""
    _tool(place, "nova-manage", "nova/nova.conf")("cell_v2", "discover_hosts")
