# SPDX-License-Identifier: Apache-2.0
"""The NBD client against real servers: nbdkit and qemu-nbd, plain and under TLS."""

import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from fisk_core import errors
from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient, export_info, list_exports
from fisk_core.dataplane.client_tls import Tls
from fisk_core.dataplane.client_uri import parse_uri
from tests.nbd_servers import make_certificates, nbdkit, nbdkit_tcp, need, qemu_nbd, run_server

MIB = 1 << 20
ALLOCATION = "base:allocation"


@pytest.fixture(params=["nbdkit", "nbdkit --no-sr", "nbdkit old", "nbdkit 4k", "qemu raw", "qemu qcow2"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A writable, empty disk of 16 MiB behind several kinds of server."""
    match request.param.split():
        case ["nbdkit"]:
            context = nbdkit(tmp_path, "memory", "16M")
        case ["nbdkit", "4k"]:
            policy = ("blocksize-minimum=4096", "blocksize-maximum=65536", "blocksize-error-policy=error")
            context = nbdkit(tmp_path, "--filter=blocksize-policy", "memory", "16M", *policy)
        case ["nbdkit", "old"]:  # before "fixed newstyle": EXPORT_NAME is all there is
            context = nbdkit(tmp_path, "--mask-handshake=0", "memory", "16M")
        case ["nbdkit", flag]:
            context = nbdkit(tmp_path, flag, "memory", "16M")
        case ["qemu", kind]:
            need("qemu-img")
            disk = str(tmp_path / "disk")
            subprocess.run(["qemu-img", "create", "-q", "-f", kind, disk, "16M"], check=True)
            context = qemu_nbd(tmp_path, "--discard=unmap", "-f", kind, disk)
    with context as path:
        yield path


def test_random_operations_match_a_model(server: str) -> None:
    """Reads, writes, zeros and trims of any offset and length; three seeds' worth would be the same code."""
    chance = random.Random(7)
    model = bytearray(16 * MIB)
    with NbdClient.connect(server, contexts=(ALLOCATION,)) as client:
        for _ in range(150):
            offset = chance.randrange(len(model))
            length = min(chance.choice([1, 511, 4096, 65537, 3 * MIB]), len(model) - offset)
            match chance.choice(["read", "write", "write", "zero"]):
                case "read":
                    assert client.read(offset, length) == model[offset : offset + length]
                case "write":
                    data = chance.randbytes(length)
                    client.write(offset, data, fua=chance.random() < 0.1)
                    model[offset : offset + length] = data
                case "zero":
                    client.zero(offset, length, no_hole=chance.random() < 0.5)
                    model[offset : offset + length] = bytes(length)
        client.flush()
        assert client.read(0, len(model)) == model


def test_extents_cover_the_disk_and_find_the_data(server: str) -> None:
    with NbdClient.connect(server, contexts=(ALLOCATION,)) as client:
        client.write(4 * MIB, b"x" * MIB)
        extents = list(client.extents())
        assert extents[0][0] == 0
        assert all(one[0] + one[1] == two[0] for one, two in pairwise(extents))
        assert extents[-1][0] + extents[-1][1] == client.size
        data = [(at, length) for at, length, flags in extents if not flags & p.STATE_ZERO]
        if ALLOCATION in client.contexts:
            # qemu-img allocates the first block of a raw file, zeros or not.
            assert [each for each in data if each != (0, 4096)] == [(4 * MIB, MIB)]
            assert list(client.extents(4 * MIB + 1, 10)) == [(4 * MIB + 1, 10, 0)]
        else:
            assert data == [(0, 16 * MIB)]


def test_streams(server: str) -> None:
    block = bytes(range(256)) * 256
    with NbdClient.connect(server) as client:
        client.write_many((offset, block) for offset in range(0, client.size, len(block)))
        offsets = range(0, client.size, len(block))
        seen = []
        for offset, data in client.read_many((offset, len(block)) for offset in offsets):
            assert data == block
            seen.append(offset)
        assert seen == list(offsets)


def test_leaving_a_stream_early_leaves_the_connection_usable(server: str) -> None:
    with NbdClient.connect(server) as client:
        client.write(0, b"one")
        for _ in client.read_many((offset, 65536) for offset in range(0, client.size, 65536)):
            break
        assert client.read(0, 3) == b"one"


def test_several_contexts(tmp_path: Path) -> None:
    need("qemu-img")
    base, top = str(tmp_path / "base"), str(tmp_path / "top")
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", base, "1M"], check=True)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, top, "1M"], check=True
    )
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 128k 64k", top], check=True, capture_output=True)
    with qemu_nbd(tmp_path, "-r", "-A", "-f", "qcow2", top) as path:
        wanted = (ALLOCATION, "qemu:allocation-depth", "no:such")
        with NbdClient.connect(path, contexts=wanted) as client:
            assert set(client.contexts) == set(wanted[:2])
            depths = [flags for _, _, flags in client.extents(context="qemu:allocation-depth")]
            assert depths == [2, 1, 2]
            assert client.read_only
            status = client.block_status(0, MIB, one=True)
            assert {name: len(items) for name, items in status.items()} == dict.fromkeys(wanted[:2], 1)


def test_request_errors_leave_the_connection(tmp_path: Path) -> None:
    with (
        nbdkit(tmp_path, "--filter=error", "memory", "1M", "error=ENOSPC", "error-pwrite-rate=100%") as path,
        NbdClient.connect(path) as client,
    ):
        for _ in range(3):
            with pytest.raises(errors.NoSpace):
                client.write(0, b"x" * 4096)
        assert client.read(0, 4096) == bytes(4096)


def test_a_server_killed_under_load_is_noticed(tmp_path: Path) -> None:
    need("nbdkit")
    path = tmp_path / "socket"
    with (
        run_server(
            ["nbdkit", "-f", "-U", str(path), "--filter=delay", "memory", "1M", "rdelay=5"], path
        ) as process,
        NbdClient.connect(path, timeout=20) as client,
    ):
        handle = client.submit_read(0, 4096)
        client.send()
        process.kill()
        with pytest.raises(errors.ProtocolError, match=r"(closed|broke) the connection"):
            handle.result()


def test_a_server_that_hangs_is_given_up(tmp_path: Path) -> None:
    with (
        nbdkit(tmp_path, "--filter=delay", "memory", "16M", "rdelay=3") as path,
        NbdClient.connect(path, timeout=0.5) as client,
        pytest.raises(errors.ProtocolError, match="did not answer"),
    ):
        client.read(0, 4096)


def test_names_lists_and_information(tmp_path: Path) -> None:
    names = ("exportname-list=explicit", "exportname=one", "exportname=two", "exportdesc=fixed:words")
    with nbdkit(tmp_path, "--filter=exportname", "memory", "1M", "exportname-strict=true", *names) as path:
        assert [each.name for each in list_exports(path)] == ["one", "two"]
        uri = f"nbd+unix:///one?socket={path}"
        assert (export_info(uri).size, export_info(uri).description) == (MIB, "words")
        with NbdClient.connect(uri) as client:
            assert client.size == MIB
        with pytest.raises(errors.NotFound):
            NbdClient.connect(uri, export="three")


def test_tcp() -> None:
    with nbdkit_tcp("memory", "1M") as port, NbdClient.connect(f"nbd://127.0.0.1:{port}/") as client:
        client.write(0, b"x" * MIB)
        assert client.read(0, MIB) == b"x" * MIB


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture
def tls_port(certificates: Path) -> Iterator[int]:
    with nbdkit_tcp(
        "--tls=require", f"--tls-certificates={certificates}", "--tls-verify-peer", "memory", "8M"
    ) as port:
        yield port


def test_tls_with_certificates_both_ways(tls_port: int, certificates: Path) -> None:
    uri = f"nbds://localhost:{tls_port}/?tls-certificates={certificates}"
    data = random.Random(1).randbytes(8 * MIB)
    with NbdClient.connect(replace(parse_uri(uri), host="127.0.0.1"), contexts=(ALLOCATION,)) as client:
        client.write(0, data)
        handles = [client.submit_read(offset, MIB) for offset in range(0, 8 * MIB, MIB)]
        assert b"".join(handle.result() for handle in handles) == data


def test_a_server_under_tls_only_refuses_plain_clients(tls_port: int) -> None:
    with pytest.raises(errors.ProtocolError, match="TLS"):
        NbdClient.connect(("127.0.0.1", tls_port))


def test_a_certificate_for_somebody_else_is_refused(tls_port: int, certificates: Path) -> None:
    tls = replace(Tls.from_directory(certificates), hostname="other.example")
    with pytest.raises(errors.ProtocolError, match=r"(?i)certificate"):
        NbdClient.connect(("127.0.0.1", tls_port), tls=tls)


def test_a_certificate_of_an_unknown_authority_is_refused(tls_port: int, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    with pytest.raises(errors.ProtocolError, match=r"(?i)certificate"):
        NbdClient.connect(("127.0.0.1", tls_port), tls=Tls.from_directory(tmp_path))


def test_a_client_without_certificate_is_refused(tls_port: int, certificates: Path) -> None:
    with pytest.raises(errors.ProtocolError):
        NbdClient.connect(("127.0.0.1", tls_port), tls=Tls(ca=str(certificates / "ca-cert.pem")))


def test_tls_on_a_unix_socket_with_qemu_nbd(tmp_path: Path, certificates: Path) -> None:
    need("qemu-img")
    disk = str(tmp_path / "disk")
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", disk, "1M"], check=True)
    credentials = f"tls-creds-x509,id=tls,dir={certificates},endpoint=server,verify-peer=yes"
    with qemu_nbd(tmp_path, "--object", credentials, "--tls-creds=tls", "-f", "raw", disk) as path:
        uri = f"nbds+unix:///?socket={path}&tls-certificates={certificates}"
        with NbdClient.connect(uri) as client:
            client.write(1000, b"secret")
            assert client.read(1000, 6) == b"secret"


def test_a_plain_server_cannot_serve_a_tls_client(tmp_path: Path) -> None:
    with nbdkit(tmp_path, "memory", "1M") as path, pytest.raises(errors.ProtocolError, match="TLS was asked"):
        NbdClient.connect(f"nbds+unix:///?socket={path}")
