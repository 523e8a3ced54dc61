# SPDX-License-Identifier: Apache-2.0
"""Volume services of our own in the cloud, to be configured and killed as tests like."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from openstack.connection import Connection

from tests.openstack.cloud import PLACE, ROOT, daemon_url, until

PROGRAMS = ROOT / ".work" / "ministack" / "venv" / "bin"
CONFIGURATION = PLACE / "etc" / "cinder" / "cinder.conf"
BACKEND = "tested"


class VolumeService:
    """One with a back end of the pool ``default``, whose volumes are of types with that back end name.

    ``general`` and ``own`` are more lines for the sections of the service and of the back end.
    """

    def __init__(self, directory: Path, host: str, backend: str, general: str = "", own: str = "") -> None:
        self.host = f"{host}@{BACKEND}"
        settings = directory / f"{host}.conf"
        settings.write_text(
            f"[DEFAULT]\nhost = {host}\nenabled_backends = {BACKEND}\n{general}\n"
            f"[{BACKEND}]\nvolume_driver = fisk_openstack.cinder.driver.FiskDriver\n"
            f"volume_backend_name = {backend}\nfisk_url = {daemon_url()}\n{own}\n"
        )
        files = [f"--config-file={CONFIGURATION}", f"--config-file={settings}"]
        self._process = subprocess.Popen(
            [PROGRAMS / "cinder-volume", *files, f"--log-file={directory / host}.log"], start_new_session=True
        )

    def end(self, how: int = signal.SIGTERM) -> None:
        """Send a signal to it and its children, and wait."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, how)
        self._process.wait(30)


def manage(*words: str) -> None:
    """Have cinder-manage do something; it may be done already."""
    command = [PROGRAMS / "cinder-manage", f"--config-file={CONFIGURATION}", *words]
    subprocess.run(command, check=False, capture_output=True)


def known(cloud: Connection, backend: str) -> bool:
    """Say whether the scheduler knows a back end."""
    return any(each.name.endswith(f"#{backend}") for each in cloud.block_storage.backend_pools())


@contextmanager
def serving(cloud: Connection, backend: str, services: list[VolumeService]) -> Iterator[None]:
    """Wait until services are of use; in the end they are stopped and forgotten."""
    try:
        hosts = {each.host for each in services}
        until(lambda: hosts <= _up(cloud), f"{hosts} up", 120)
        until(lambda: known(cloud, backend), f"the scheduler knows {backend}", 120)
        yield
    finally:
        for each in services:
            each.end()
        for each in services:
            manage("service", "remove", "cinder-volume", each.host)


def _up(cloud: Connection) -> set[str]:
    return {each.host for each in cloud.block_storage.services() if each.state == "up"}
