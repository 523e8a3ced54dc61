# SPDX-License-Identifier: Apache-2.0
"""Clients from the network under TLS: it ends in the acceptor, and the bytes are relayed."""

import os
import select
import socket
import ssl
import subprocess
from contextlib import suppress
from functools import partial

import pytest

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.acceptor import Acceptor, AcceptorOptions
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.client_tls import Tls
from fisk_core.dataplane.listener import listen_tcp
from fisk_core.dataplane.loop import Loop
from fisk_core.dataplane.spec import TlsOptions
from fisk_core.dataplane.zygote import Zygote
from tests.acceptors import TOKEN, Accepted
from tests.disks import USUAL, make_pool, make_spec
from tests.nbd_servers import make_certificates, need
from tests.servers import Forked, info_request
from tests.waiting import until

SIZE = 64 << 20
MIB = 1 << 20


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as started:
        yield started


@pytest.fixture(scope="module")
def served(zygote, tmp_path_factory):
    folder = tmp_path_factory.mktemp("w")
    with Forked(make_spec(make_pool(folder / "pool"), SIZE, USUAL), folder, zygote) as served:
        yield served


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def secured(served, certificates, tmp_path_factory):
    accepted = Accepted(tmp_path_factory.mktemp("s"), TlsOptions(directory=str(certificates), verify=True))
    accepted.admit(served)
    yield accepted
    accepted.close()


def test_nothing_is_said_in_the_clear(secured):
    with secured.raw() as raw:
        for option in (p.OPT_GO, p.OPT_INFO, p.OPT_LIST, p.OPT_SET_META_CONTEXT):
            assert raw.option(option, info_request(TOKEN))[-1][0] == p.REP_ERR_TLS_REQD
        raw.put_option(p.OPT_EXPORT_NAME, TOKEN.encode())
        assert raw.at_end()


class Gone:
    """What the library does with a client that is gone, but left bytes behind: else a race."""

    def wrap_socket(self, sock, **_):
        sock.close()
        raise ssl.SSLError("Closed before TLS handshake with data in recv buffer.")


def test_a_client_that_is_gone_when_tls_begins(tmp_path):
    """Its descriptor was closed without the loop being asked; the next one, of that number, is served."""
    loop = Loop()
    options = AcceptorOptions(("127.0.0.1", 0), str(tmp_path), str(tmp_path / "ctl"))
    accepting = Acceptor(loop, options, Gone())
    accepting.listen("tcp", listen_tcp("127.0.0.1", 0))
    try:
        for _ in range(3):
            with socket.create_connection(accepting.address, 20) as sock:
                head = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STARTTLS, 0)
                sock.sendall(p.CLIENT_FLAGS.pack(3) + head)
                said = b""
                while len(said) < p.HELLO.size + p.OPTION_REPLY.size:
                    loop.later(0.01, partial(setattr, loop, "stopping", True))
                    loop.run()
                    loop.stopping = False
                    sock.setblocking(False)
                    with suppress(BlockingIOError):
                        said += sock.recv(100)
            assert p.OPTION_REPLY.unpack(said[p.HELLO.size :])[1:3] == (p.OPT_STARTTLS, p.REP_ACK)
    finally:
        accepting.close()
        loop.close()


def test_tls_is_relayed(secured, certificates):
    data, before = os.urandom(8 * MIB), secured.files()
    uri = secured.uri(scheme="nbds", host="localhost")
    with NbdClient.connect(uri, tls=Tls.from_directory(certificates)) as client:
        client.write(5, data)
        client.flush()
        assert client.read(5, len(data)) == data
        client.write_many((at * 4096, data[:4096]) for at in range(2000))
        assert all(
            found == data[:4096] for _, found in client.read_many((at * 4096, 4096) for at in range(2000))
        )
        assert secured.control("status")["relays"] == 1
    until(lambda: secured.control("status")["relays"] == 0)
    until(lambda: secured.files() <= before)


def test_other_clients_under_tls(secured, certificates, tmp_path):
    need("nbdinfo", "nbdcopy")
    (tmp_path / "image").write_bytes(os.urandom(4 * MIB))
    uri = secured.uri(scheme="nbds", host="localhost") + f"?tls-certificates={certificates}"
    for command in (
        ["nbdinfo", "--size", uri],
        ["nbdcopy", "--connections=3", str(tmp_path / "image"), uri],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_garbage_under_tls(secured):
    with secured.raw() as raw:
        assert raw.option(p.OPT_STARTTLS) == [(p.REP_ACK, b"")]
        raw.sock.sendall(b"no hello at all" * 10)
        with pytest.raises((EOFError, ConnectionError)):
            raw.read(10_000)
    with secured.raw() as raw:
        head = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STARTTLS, 0)
        raw.sock.sendall(head + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STRUCTURED_REPLY, 0))
        with pytest.raises((EOFError, ConnectionError)):
            raw.read(10_000)


def test_clients_under_tls_survive_a_new_worker(secured, certificates, zygote, tmp_path):
    """The worker's end of the relay is handed over like any client."""
    with Forked(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path, zygote) as other:
        secured.admit(other, "upgraded")
        uri = secured.uri("upgraded", scheme="nbds", host="localhost")
        with NbdClient.connect(uri, tls=Tls.from_directory(certificates)) as client:
            for number in range(3):
                client.write(number * 4096, b"u" * 4096)
                old = other._pid
                other._pid, _ = zygote.succeed(other.control_path)
                assert zygote.wait(old) == 0
            assert client.read(0, 3 * 4096) == b"u" * 3 * 4096


def test_relays_stay_with_the_acceptor_that_has_them(served, certificates, tmp_path):
    secured = Accepted(tmp_path, TlsOptions(directory=str(certificates)))
    secured.admit(served)
    uri = secured.uri(scheme="nbds", host="localhost")
    with NbdClient.connect(uri, tls=Tls.from_directory(certificates)) as client:
        secured.succeed()
        client.write(0, b"still there")
        assert client.read(0, 11) == b"still there"
        with NbdClient.connect(uri, tls=Tls.from_directory(certificates)) as another:
            assert another.read(0, 11) == b"still there"
    assert secured.old[0].wait(20) == 0
    secured.close()


def test_a_client_under_tls_that_takes_nothing(secured, certificates, served):
    """It makes the worker wait for it, and nobody else."""
    uri = secured.uri(scheme="nbds", host="localhost")
    with NbdClient.connect(uri, tls=Tls.from_directory(certificates), depth=64) as client:
        reads = client.read_many((at * MIB, MIB) for at in range(60))
        next(reads)
        with served.raw() as other:
            assert other.works()
        assert not select.select([], [], [], 0.05)[0]
        assert sum(len(data) for _, data in reads) == 59 * MIB
