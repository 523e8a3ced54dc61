# SPDX-License-Identifier: Apache-2.0
"""A real acceptor for tests, and a client that reaches it over TCP."""

import socket

from fisk_core.dataplane import acceptor, lines, routes
from fisk_core.dataplane import protocol as p
from tests.servers import Raw
from tests.waiting import PATIENCE, open_files

TOKEN = "V3ry-secret_token-of-forty-three-characters"
FLAGS = p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES


class Accepted:
    """An acceptor process, and where it listens."""

    def __init__(self, folder, tls=None):
        self.exports, self.control_path = folder / "exports", str(folder / "acceptor.ctl")
        self.exports.mkdir(exist_ok=True)
        self.tls = tls
        self.old = []
        self.start()

    def start(self, succeed=False, port=0):
        options = acceptor.AcceptorOptions(
            ("127.0.0.1", port), str(self.exports), self.control_path, self.tls, succeed
        )
        self.process, (self.host, self.port) = acceptor.start(options)

    def succeed(self):
        self.old.append(self.process)
        self.start(succeed=True)

    def control(self, op):
        return lines.call(self.control_path, {"op": op})

    def admit(self, served, token=TOKEN, read_only=False):
        routes.publish(self.exports, token, routes.Route(served.control_path, read_only))

    def raw(self, **options):
        return NetRaw((self.host, self.port), **options)

    def uri(self, token=TOKEN, scheme="nbd", host="127.0.0.1"):
        return f"{scheme}://{host}:{self.port}/{token}"

    def files(self):
        return open_files(self.process.pid)

    def close(self):
        for process in (self.process, *self.old):
            process.terminate()
            assert process.wait(20) == 0


class NetRaw(Raw):
    """The client of odd requests, over TCP."""

    def __init__(self, address, *, structured=False, contexts=(), name=None, greet=True):
        self.sock = socket.create_connection(address, PATIENCE)
        self.cookie, self.lengths = 0, {}
        try:
            self.hello = p.HELLO.unpack(self.read(p.HELLO.size))
            if greet:
                self._greet(structured, (), False, FLAGS)
            if name is not None:
                assert self.go(name)[-1][0] == p.REP_ACK
        except BaseException:
            self.sock.close()
            raise
