# SPDX-License-Identifier: Apache-2.0
"""Real NBD servers (nbdkit, qemu-nbd) and TLS certificates for tests."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def need(*programs: str) -> None:
    """Skip the test where a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def _listening(address: Path | tuple[str, int]) -> bool:
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as sock:
        return sock.connect_ex(str(address) if isinstance(address, Path) else address) == 0


@contextmanager
def run_server(command: list[str], address: Path | tuple[str, int]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server in the foreground until it listens at ``address``, and end it afterwards."""
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            for _ in range(500):
                if _listening(address):
                    break
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.01)
            else:
                raise AssertionError(f"{command[0]} does not listen")
            yield process
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.communicate(timeout=5)
    except subprocess.TimeoutExpired:  # nbdkit may wait for a client of a test that failed
        process.kill()
        process.communicate(timeout=5)


@contextmanager
def nbdkit(folder: Path, *arguments: str) -> Iterator[str]:
    """Run nbdkit with a plugin's arguments; gives the socket's path."""
    need("nbdkit")
    path = folder / "nbdkit.sock"
    with run_server(["nbdkit", "--foreground", "--unix", str(path), *arguments], path):
        yield str(path)


@contextmanager
def nbdkit_tcp(*arguments: str) -> Iterator[int]:
    """The same on a port of 127.0.0.1, which it gives."""
    need("nbdkit")
    port = free_port()
    with run_server(
        ["nbdkit", "--foreground", "--ipaddr", "127.0.0.1", "--port", str(port), *arguments],
        ("127.0.0.1", port),
    ):
        yield port


@contextmanager
def qemu_nbd(folder: Path, *arguments: str) -> Iterator[str]:
    """Run qemu-nbd for any number of clients; gives the socket's path."""
    need("qemu-nbd")
    path = folder / "qemu.sock"
    with run_server(["qemu-nbd", "--persistent", "--shared=0", f"--socket={path}", *arguments], path):
        yield str(path)


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody uses at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def make_certificates(folder: Path) -> None:
    """Make a CA and certificates of a server (localhost) and a client, named as QEMU wants them."""
    need("openssl")
    folder.mkdir(exist_ok=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=test CA",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    for name, usage in (("server", "serverAuth"), ("client", "clientAuth")):
        openssl("req", *key, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", "/CN=localhost")
        (folder / "extensions").write_text(
            f"subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={usage}\n"
            "keyUsage=critical,digitalSignature\n"
        )
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem",
                "-out", f"{name}-cert.pem", "-extfile", "extensions", "-days", "2")  # fmt: skip
