# SPDX-License-Identifier: Apache-2.0
"""Certificates that are replaced while they are used: new clients get the new ones, nobody is dropped."""

import http.client
import os
import shutil
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.client_tls import Tls
from fisk_core.dataplane.renewal import Renewal
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.spec import TlsOptions
from fisk_core.errors import FiskError
from tests.acceptors import Accepted
from tests.disks import USUAL, make_pool, make_spec
from tests.fiskds import Fiskd, running
from tests.functional.test_fiskd_auth import certificate
from tests.nbd_servers import make_certificates
from tests.servers import Served
from tests.waiting import until

SIZE = 1 << 20
BAD = "TLS goes on with what it had: the certificate or key in"


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificates of two authorities that know nothing of each other."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for folder in folders:
        make_certificates(folder)
    return folders


@pytest.fixture
def used(authorities: tuple[Path, Path], tmp_path: Path) -> Path:
    """The directory a server uses: at first that of the first authority."""
    return Path(shutil.copytree(authorities[0], tmp_path / "used"))


def test_a_change_counts_when_it_has_settled(tmp_path: Path) -> None:
    file, link, other = tmp_path / "file", tmp_path / "link", tmp_path / "other"
    file.write_text("1")
    link.symlink_to(file)
    renewal = Renewal([link, other])
    assert not renewal.changed()
    other.write_text("appears")
    assert [renewal.changed() for _ in range(3)] == [False, True, False]
    file.write_text("another")
    assert not renewal.changed()
    file.write_text("and one more")
    assert [renewal.changed() for _ in range(3)] == [False, True, False]
    file.unlink()
    assert [renewal.changed(at_once=True) for _ in range(2)] == [True, False]


@contextmanager
def accepted(folder: Path, tls: TlsOptions) -> Iterator[str]:
    """Give the URI of an acceptor."""
    with Served(make_spec(make_pool(folder / "pool"), SIZE, USUAL), folder) as served:
        acceptor = Accepted(folder, tls)
        acceptor.admit(served)
        try:
            yield acceptor.uri(scheme="nbds", host="localhost")
        finally:
            acceptor.close()


@contextmanager
def worker(folder: Path, tls: TlsOptions) -> Iterator[str]:
    """Give the URI of a worker with TLS of its own."""
    options = ServeOptions(tls=tls)
    with Served(make_spec(make_pool(folder / "pool"), SIZE, USUAL), folder, options) as served:
        yield f"nbds+unix:///{served.spec.name}?socket={served.path}"


@pytest.mark.parametrize("server", [accepted, worker])
def test_nbd(
    server: Any, authorities: tuple[Path, Path], used: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (Tls.from_directory(folder) for folder in authorities)
    with (
        server(tmp_path, TlsOptions(str(used), verify=True)) as uri,
        NbdClient.connect(uri, tls=first) as client,
    ):
        client.write(0, b"before")
        (used / "server-key.pem").write_bytes((authorities[1] / "server-key.pem").read_bytes())
        told = Told(capfd)
        until(lambda: BAD in told())  # the key alone is none of the certificate's
        with NbdClient.connect(uri, tls=first) as another:
            assert another.read(0, 6) == b"before"
        shutil.copytree(authorities[1], used, dirs_exist_ok=True)
        until(lambda: connects(uri, second))
        assert not connects(uri, first)
        (used / "server-cert.pem").write_text("nothing of the kind")
        until(lambda: told().count(BAD) == 2)
        assert connects(uri, second)
        client.write(6, b" and after")
        assert client.read(0, 16) == b"before and after"


class Told:
    """All that was written to standard error so far."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd, self._text = capfd, ""

    def __call__(self) -> str:
        self._text += self._capfd.readouterr().err
        return self._text


def connects(uri: str, tls: Tls) -> bool:
    try:
        NbdClient.connect(uri, tls=tls).close()
    except FiskError:
        return False
    return True


def reached(fiskd: Fiskd, authority: Path) -> Callable[[], bool]:
    """Give what says whether the daemon proves itself with this certificate."""

    def asked() -> bool:
        try:
            connection = open_https(fiskd, authority)
        except ssl.SSLError:
            return False
        connection.close()
        return True

    return asked


def open_https(fiskd: Fiskd, authority: Path) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=authority)
    connection = http.client.HTTPSConnection("127.0.0.1", fiskd.port, timeout=20, context=context)
    connection.connect()
    return connection


def healthy(connection: http.client.HTTPSConnection) -> bool:
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    return answer.status == 200 and b"true" in answer.read()


def test_https(home: Path, tmp_path: Path) -> None:
    authorities = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        authorities.append(certificate(tmp_path / name)[0])
    used = Path(shutil.copytree(tmp_path / "one", tmp_path / "used"))
    api = {"listen": "127.0.0.1:0", "tls_cert": used / "cert.pem", "tls_key": used / "key.pem"}
    with running(home, api=api) as fiskd:
        connection = open_https(fiskd, authorities[0])
        sock = connection.sock
        assert healthy(connection)
        (used / "cert.pem").write_text("nothing of the kind")
        os.kill(fiskd.pid, signal.SIGHUP)
        until(lambda: "HTTPS goes on with the certificate it had" in fiskd.log)
        assert reached(fiskd, authorities[0])()
        shutil.copytree(tmp_path / "two", used, dirs_exist_ok=True)
        until(reached(fiskd, authorities[1]))
        assert not reached(fiskd, authorities[0])()
        assert healthy(connection)
        assert connection.sock is sock
        connection.close()
        assert fiskd.log.count("HTTPS goes on") == 1
