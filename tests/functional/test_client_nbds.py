# SPDX-License-Identifier: Apache-2.0
"""The client where every byte goes over the network: HTTPS, and NBD under TLS through the acceptor."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fisk_core import errors
from fisk_core.client import RemoteEngine, disks
from fisk_core.dataplane.client_tls import Tls
from fisk_core.model import Fisk
from tests.fiskds import Fiskd, running
from tests.functional.test_fiskd_auth import command
from tests.nbd_servers import make_certificates

MIB = 1 << 20


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fisk-") as folder:
        make_certificates(Path(folder))
        yield Path(folder)


@pytest.fixture(scope="module")
def fiskd(certificates: Path) -> Iterator[Fiskd]:
    """A daemon whose clients must have certificates."""
    api = {
        "listen": "127.0.0.1:0",
        "tls_cert": certificates / "server-cert.pem",
        "tls_key": certificates / "server-key.pem",
    }
    nbd = {"listen": "127.0.0.1:0", "tls_dir": certificates, "tls_verify": "true"}
    with (
        tempfile.TemporaryDirectory(prefix="fisk-") as folder,
        running(Path(folder), api=api, nbd=nbd) as daemon,
    ):
        yield daemon


@pytest.fixture(scope="module")
def secret(fiskd: Fiskd) -> str:
    return command(fiskd, "token", "create", "far-away", "--role", "operator").strip()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another host: no unix socket of the daemon's is there."""
    real = disks.reachable
    monkeypatch.setattr(
        disks, "reachable", lambda uris: [uri for uri in real(uris) if not uri.startswith("nbd+unix")]
    )


def opened(fiskd: Fiskd, secret: str, certificates: Path, tls: Tls | None) -> RemoteEngine:
    cacert = str(certificates / "ca-cert.pem")
    return RemoteEngine.open(f"https://127.0.0.1:{fiskd.port}", secret, cacert=cacert, tls=tls)


@pytest.fixture
def engine(fiskd: Fiskd, secret: str, certificates: Path, elsewhere: None) -> Iterator[RemoteEngine]:
    with opened(fiskd, secret, certificates, Tls.from_directory(certificates)) as remote:
        yield remote
        for fisk in remote.list():
            remote.delete(fisk.id, force=True)


def test_disks(engine: RemoteEngine) -> None:
    engine.create("a", MIB)
    with engine.open_disk("a", writable=True) as disk:
        disk.write(5, b"under tls")
        disk.flush()
    with engine.open_disk("a") as disk:
        assert disk.read(0, 14) == bytes(5) + b"under tls"
        with pytest.raises(errors.ReadOnly):
            disk.write(0, b"x")
    assert engine.attachments() == []


def test_images(engine: RemoteEngine, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB) + bytes(5 * MIB) + b"end".ljust(512)
    (tmp_path / "image").write_bytes(content)
    made: Fisk = engine.import_image(tmp_path / "image", "image")
    assert made.frozen
    engine.download("image", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content
    assert engine.attachments() == []


def test_what_is_given_out(engine: RemoteEngine, certificates: Path) -> None:
    engine.create("a", MIB)
    attachment = engine.attach("a")
    [uri] = [each for each in attachment.uris if not each.startswith("nbd+unix")]
    assert uri.startswith("nbds://127.0.0.1:")
    with disks.connect([uri], Tls.from_directory(certificates)) as client:
        client.write(0, b"1")
    with pytest.raises(errors.FiskError):
        disks.connect([uri.replace("nbds:", "nbd:")], None)
    engine.detach(attachment.id)
    with pytest.raises(errors.FiskError):
        disks.connect([uri], Tls.from_directory(certificates))


def test_without_a_certificate_of_its_own(
    fiskd: Fiskd, secret: str, certificates: Path, engine: RemoteEngine, elsewhere: None
) -> None:
    """REST lets it in by its token, NBD does not; and what it attached is not left behind."""
    engine.create("a", MIB)
    with opened(fiskd, secret, certificates, None) as remote:
        with pytest.raises(errors.FiskError):
            remote.open_disk("a")
        assert remote.attachments() == []
        with pytest.raises(errors.FiskError):
            remote.import_image(Path(__file__), "image")
    assert [fisk.name for fisk in engine.list()] == ["a"]
