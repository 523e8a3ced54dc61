# SPDX-License-Identifier: Apache-2.0
"""A second Glance on the cloud's database, to be configured and killed as tests like, and its plain HTTP."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import requests
from openstack.connection import Connection

from tests.openstack.cloud import PLACE, ROOT, daemon_url, unique, until

SECOND = "second"
"""pool of the second store"""
_FILES = 19080
"""the one port Glance may fetch images from"""


class Api:
    """A Glance of our own with the stores ``fisk`` (pool ``default``) and ``other`` (pool ``second``)."""

    def __init__(self, directory: Path, cloud: Connection, more: str = "") -> None:
        self.cloud = cloud
        self.url = f"http://127.0.0.1:{_free_port()}"
        configuration = directory / "glance-api.conf"
        configuration.touch(mode=0o600)  # the cloud's pass words are in it
        usual = (PLACE / "etc" / "glance" / "glance-api.conf").read_text()
        configuration.write_text(usual + self._own(directory) + more)
        venv = PLACE.parent / "venv" / "bin" / "python"
        serve = ROOT / "devstack" / "ministack" / "serve.py"
        with (directory / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [venv, serve, "glance.wsgi.api", self.url.rpartition(":")[2], "8"],
                env={**os.environ, "OS_GLANCE_CONFIG_DIR": str(directory)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self._answers, f"Glance at {self.url}; see {directory}", 120)

    def _own(self, directory: Path) -> str:
        return f"""
[DEFAULT]
log_file = {directory}/log
node_staging_uri = file://{directory}/staging
worker_self_reference_url = {self.url}
enabled_backends = fisk:fisk,other:fisk
show_image_direct_url = false
show_multiple_locations = false
[other]
fisk_url = {daemon_url()}
fisk_pool = {SECOND}
[os_glance_staging_store]
filesystem_store_datadir = {directory}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {directory}/tasks
"""

    def _answers(self) -> bool:
        assert self.process.poll() is None, "Glance ended"
        try:
            return requests.get(self.url, timeout=5).status_code < 500
        except (requests.ConnectionError, requests.Timeout):
            return False

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request as ``admin``; ``options`` as ``requests`` has them."""
        headers = {"X-Auth-Token": self.cloud.auth_token, **options.pop("headers", {})}
        return requests.request(method, f"{self.url}/v2{path}", headers=headers, timeout=120, **options)

    def create(self, disk_format: str = "raw", **more: Any) -> str:
        """Make the record of an image and give its id."""
        body = {"name": unique("image"), "disk_format": disk_format, "container_format": "bare", **more}
        answer = self.call("POST", "/images", json=body)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def show(self, image: str) -> dict[str, Any]:
        """Give what Glance says of an image."""
        found: dict[str, Any] = self.call("GET", f"/images/{image}").json()
        return found

    def upload(self, image: str, data: Any, **headers: str) -> requests.Response:
        """Send the bytes of an image; an iterator is sent in chunks, without its length."""
        sent = {"Content-Type": "application/octet-stream", **headers}
        return self.call("PUT", f"/images/{image}/file", data=data, headers=sent)

    def begin_upload(self, image: str, announced: int, data: bytes) -> socket.socket:
        """Send the beginning of an upload of ``announced`` bytes; gives the connection, which stays open."""
        where = urlsplit(self.url)
        lines = [
            f"PUT /v2/images/{image}/file HTTP/1.1",
            f"Host: {where.netloc}",
            f"X-Auth-Token: {self.cloud.auth_token}",
            "Content-Type: application/octet-stream",
            f"Content-Length: {announced}",
        ]
        connection = socket.create_connection((str(where.hostname), int(where.port or 80)), 30)
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + data)
        return connection

    def stage(self, image: str, data: Any) -> None:
        """Send the bytes for a later import."""
        headers = {"Content-Type": "application/octet-stream"}
        self.call("PUT", f"/images/{image}/stage", data=data, headers=headers).raise_for_status()

    def start_import(self, image: str, method: dict[str, Any], **more: Any) -> None:
        """Have an image imported."""
        body = {"method": method, **more}
        self.call("POST", f"/images/{image}/import", json=body).raise_for_status()

    def bytes_of(self, image: str, wanted: str | None = None) -> bytes:
        """Give an image's bytes; ``wanted`` is the value of a header Range."""
        headers = {"Range": wanted} if wanted else {}
        answer = self.call("GET", f"/images/{image}/file", headers=headers)
        assert answer.status_code == (206 if wanted else 200), answer.text
        return answer.content

    def kill(self) -> None:
        """End it at once, with all it was doing."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory where Glance may fetch from; gives the URL."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    handler = partial(Handler, directory=str(directory))

    def listening() -> ThreadingHTTPServer | None:
        try:
            return ThreadingHTTPServer(("127.0.0.1", _FILES), handler)
        except OSError:  # somebody else on this machine tries the same
            return None

    with until(listening, f"port {_FILES} free", 120) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{_FILES}"
        finally:
            server.shutdown()
            thread.join()
