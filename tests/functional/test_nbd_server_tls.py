# SPDX-License-Identifier: Apache-2.0
"""TLS of a real worker: who gets in, who does not, and that everything works inside."""

import os
import shutil
import ssl
import subprocess
import sys

import pytest

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.client_tls import Tls
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.tls import TlsOptions
from fisk_core.errors import FiskError, InvalidValue, NotFound, ProtocolError, Unsupported
from tests.disks import USUAL, make_pool, make_spec
from tests.nbd_servers import make_certificates, need
from tests.servers import Served

SIZE = 64 << 20
MIB = 1 << 20


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """Certificates of another authority."""
    folder = tmp_path_factory.mktemp("other")
    make_certificates(folder)
    return folder


@pytest.fixture(params=[False, True], ids=["anyone", "verified"])
def served(tmp_path, certificates, request):
    tls = TlsOptions(directory=str(certificates), verify=request.param)
    spec = make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL)
    with Served(spec, tmp_path, ServeOptions(tls=tls)) as served:
        served.verified = request.param
        yield served


def secure(raw, folder):
    """STARTTLS on a raw connection."""
    assert raw.option(p.OPT_STARTTLS) == [(p.REP_ACK, b"")]
    context = ssl.create_default_context(cafile=folder / "ca-cert.pem")
    context.load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
    raw.sock = context.wrap_socket(raw.sock, server_hostname="localhost")


def test_nothing_happens_before_tls(served):
    with served.raw(go=False) as raw:
        for option in (p.OPT_LIST, p.OPT_GO, p.OPT_INFO, p.OPT_STRUCTURED_REPLY, p.OPT_SET_META_CONTEXT, 99):
            [(kind, _)] = raw.option(option)
            assert kind == p.REP_ERR_TLS_REQD
        raw.put_option(p.OPT_EXPORT_NAME)
        assert raw.at_end()
    with pytest.raises(FiskError, match="TLS"):
        NbdClient.connect(served.path)


def test_abort_before_tls(served):
    with served.raw(go=False) as raw:
        assert raw.option(p.OPT_ABORT) == [(p.REP_ACK, b"")]
        assert raw.at_end()


def test_everything_works_inside(served, certificates):
    data = os.urandom(MIB) * 33
    with served.connect(tls=Tls.from_directory(certificates), contexts=[p.CONTEXT_ALLOCATION]) as client:
        client.write(5, data)
        client.flush()
        assert client.read(5, len(data)) == data
        client.zero(MIB, MIB)
        assert [length for _, length, _ in client.extents(0, 3 * MIB)] == [MIB, MIB, MIB]
        client.write_many((at * 4096, data[:4096]) for at in range(1000))
        assert all(
            found == data[:4096] for _, found in client.read_many((at * 4096, 4096) for at in range(1000))
        )
    assert served.uri.startswith("nbds+unix:")


def test_what_was_agreed_before_tls_is_forgotten(served, certificates):
    with served.raw(go=False) as raw:
        secure(raw, certificates)
        [(kind, _)] = raw.option(p.OPT_STARTTLS)
        assert kind == p.REP_ERR_INVALID
        info = raw.go()
        assert info[-1] == (p.REP_ACK, b"")
        assert not int.from_bytes(info[-2][1][-2:], "big") & p.TFLAG_SEND_DF
        assert raw.works()


def test_data_behind_starttls_is_not_taken_for_protected(served):
    with served.raw(go=False) as raw:
        head = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STARTTLS, 0)
        raw.sock.sendall(head + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STRUCTURED_REPLY, 0))
        raw.option_reply(p.OPT_STARTTLS)
        assert raw.at_end()


def test_garbage_instead_of_a_tls_handshake(served, certificates):
    with served.raw(go=False) as raw:
        raw.option(p.OPT_STARTTLS)
        raw.sock.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
        with pytest.raises((EOFError, ConnectionError)):
            raw.read(10_000)
    with served.connect(tls=Tls.from_directory(certificates)) as client:
        assert client.read(0, 10) == bytes(10)


def test_a_thousand_requests_in_one_send(served, certificates):
    """More than the server looks at at once: what TLS decrypted meanwhile must not be forgotten."""
    with served.raw(go=False) as raw:
        secure(raw, certificates)
        raw.go()
        parts = [
            p.REQUEST.pack(p.REQUEST_MAGIC, p.CMD_FLAG_FUA, p.CMD_WRITE, number, 4096 * number, 1000)
            + b"t" * 1000
            for number in range(1000)
        ]
        raw.lengths = dict.fromkeys(range(1000), (0, 0))
        raw.sock.sendall(b"".join(parts))
        assert sorted(raw.reply().cookie for _ in range(1000)) == list(range(1000))


def test_a_server_of_another_authority_is_not_trusted(served, strangers):
    with pytest.raises(ProtocolError):
        served.connect(tls=Tls(ca=str(strangers / "ca-cert.pem")))


def test_clients_prove_themselves_where_asked_to(served, certificates, strangers):
    ca = str(certificates / "ca-cert.pem")
    stranger = Tls(ca=ca, cert=str(strangers / "client-cert.pem"), key=str(strangers / "client-key.pem"))
    for tls in (Tls(ca=ca), stranger):
        if served.verified:
            with pytest.raises(ProtocolError):
                served.connect(tls=tls)
        else:
            with served.connect(tls=tls) as client:
                assert client.size == SIZE


def test_other_clients_over_tcp(tmp_path, certificates):
    need("nbdinfo", "nbdcopy", "qemu-img")
    tls = TlsOptions(directory=str(certificates), verify=True)
    spec = make_spec(make_pool(tmp_path / "pool"), MIB, USUAL)
    with Served(spec, tmp_path, ServeOptions(tls=tls, listen=("127.0.0.1", 0))) as served:
        port = served.control("status")["uris"][1].rsplit(":", 1)[1].split("/")[0]
        uri = f"nbds://localhost:{port}/test?tls-certificates={certificates}"
        assert run("nbdinfo", "--size", uri).strip() == str(MIB)
        (tmp_path / "image").write_bytes(os.urandom(MIB))
        run("nbdcopy", str(tmp_path / "image"), uri)
        creds = f"tls-creds-x509,id=tls0,endpoint=client,dir={certificates}"
        image = f"driver=nbd,host=localhost,port={port},export=test,tls-creds=tls0"
        run(
            "qemu-img",
            "compare",
            "--object",
            creds,
            "--image-opts",
            image,
            f"driver=file,filename={tmp_path}/image",
        )
        with pytest.raises(subprocess.CalledProcessError):
            run("nbdinfo", "--size", f"nbd://localhost:{port}/test")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


# What a server is started with


def start(tmp_path, tls):
    spec = make_spec(make_pool(tmp_path / "pool"), MIB)
    with Served(spec, tmp_path, ServeOptions(tls=tls)):
        raise AssertionError("it serves")


def test_missing_certificates(tmp_path):
    with pytest.raises(NotFound):
        start(tmp_path, TlsOptions(directory=str(tmp_path)))


def test_certificates_that_are_none(tmp_path, certificates):
    shutil.copytree(certificates, tmp_path / "pki")
    (tmp_path / "pki" / "server-cert.pem").write_text("not a certificate")
    with pytest.raises(InvalidValue):
        start(tmp_path, TlsOptions(directory=str(tmp_path / "pki")))


def test_verifying_needs_an_authority(tmp_path, certificates):
    shutil.copytree(certificates, tmp_path / "pki")
    (tmp_path / "pki" / "ca-cert.pem").unlink()
    with pytest.raises(NotFound):
        start(tmp_path, TlsOptions(directory=str(tmp_path / "pki"), verify=True))


KEY = "f" * 64


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="this Python can do it")
def test_a_pre_shared_key_needs_a_newer_python(tmp_path):
    (tmp_path / "keys").write_text(f"alice:{KEY}\n")
    with pytest.raises(Unsupported, match=r"^TLS .* needs Python 3.13; use certificates$"):
        start(tmp_path, TlsOptions(psk_file=str(tmp_path / "keys")))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="needs Python 3.13")
def test_a_pre_shared_key(tmp_path):
    (tmp_path / "keys").write_text(f"alice:{KEY}\n")
    (tmp_path / "wrong").write_text(f"alice:{'0' * 64}\n")
    options = ServeOptions(tls=TlsOptions(psk_file=str(tmp_path / "keys")))
    with Served(make_spec(make_pool(tmp_path / "pool"), MIB), tmp_path, options) as served:
        with served.connect(tls=Tls(username="alice", psk_file=str(tmp_path / "keys"))) as client:
            assert client.read(0, 10) == bytes(10)
        for tls in (Tls(username="alice", psk_file=str(tmp_path / "wrong")),):
            with pytest.raises(ProtocolError):
                served.connect(tls=tls)


@pytest.mark.parametrize("text", ["alice", "alice:xyz", ":\nalice:f"])
def test_key_files_that_are_none(tmp_path, text):
    (tmp_path / "keys").write_text(text)
    with pytest.raises((InvalidValue, Unsupported)):
        start(tmp_path, TlsOptions(psk_file=str(tmp_path / "keys")))


def test_a_missing_key_file(tmp_path):
    with pytest.raises(NotFound):
        start(tmp_path, TlsOptions(psk_file=str(tmp_path / "keys")))
