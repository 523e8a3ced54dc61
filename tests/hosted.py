# SPDX-License-Identifier: Apache-2.0
"""Servers and acceptors on a thread of the test's own process: for questions to code, not to processes."""

import threading
from pathlib import Path

from fisk_core.dataplane.acceptor import Acceptor, AcceptorOptions
from fisk_core.dataplane.control import Control
from fisk_core.dataplane.listener import listen_tcp
from fisk_core.dataplane.loop import Loop
from fisk_core.dataplane.routes import Route, publish
from fisk_core.dataplane.server import ServeOptions, Server
from fisk_core.dataplane.spec import DiskSpec, TlsOptions
from fisk_core.dataplane.tls import server_context
from tests.acceptors import TOKEN, NetRaw
from tests.servers import Served


class Hosted(Served):
    """Like a worker's, but for what only a process of its own can do."""

    def __init__(self, spec: DiskSpec, folder: Path, options: ServeOptions | None = None) -> None:
        super().__init__(spec, folder, options)
        self._thread: threading.Thread | None = None
        self.server: Server | None = None

    def start(self) -> None:
        self.server = Server(Loop(), self.spec, self.options)
        self.server.listen()
        self.server.listen_control(Control(self.server).accept)
        self._thread = threading.Thread(target=self.server.loop.run)
        self._thread.start()

    def stop(self) -> None:
        thread, server = self._thread, self.server
        self._thread = self.server = None
        if thread and server:
            server.loop.from_thread(lambda: setattr(server.loop, "stopping", True))
            thread.join()
            server.close()

    @property
    def uri(self) -> str:
        assert self.server
        return self.server.uris[0]


class HostedAcceptor:
    """An acceptor on a thread of this process; workers must let clients in by :meth:`admit`."""

    def __init__(self, folder: Path, tls: TlsOptions | None = None) -> None:
        self.exports = folder / "exports"
        self.exports.mkdir()
        options = AcceptorOptions(("127.0.0.1", 0), str(self.exports), str(folder / "acceptor.ctl"), tls)
        self.acceptor = Acceptor(Loop(), options, server_context(tls) if tls else None)
        self.acceptor.listen("tcp", listen_tcp(*options.listen))
        self._thread = threading.Thread(target=self.acceptor.loop.run)
        self._thread.start()

    def admit(self, served: Served, token: str = TOKEN, read_only: bool = False) -> None:
        publish(self.exports, token, Route(served.control_path, read_only))

    def raw(self, **options: object) -> NetRaw:
        return NetRaw(self.acceptor.address, **options)

    def close(self) -> None:
        loop = self.acceptor.loop
        loop.from_thread(lambda: setattr(loop, "stopping", True))
        self._thread.join()
        self.acceptor.close()
        loop.close()
