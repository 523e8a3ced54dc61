# SPDX-License-Identifier: Apache-2.0
"""The process that listens on the network for all workers of a host.

It lets clients in whose export name is a token that was given out, and gives their sockets to the worker
that serves it (:mod:`~fisk_core.dataplane.reception`); after that it has nothing to do with them.  Only TLS
ends here, and is relayed.  It keeps no state: who may come in is in a directory, so it outlives, and is
outlived by, whoever started it.

Control socket: ``status``, ``stop``, and ``handover`` (one end of a socket pair), which gives the listeners
to a successor; clients half let in, and relays, stay here until they end, and then so does the process.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fisk_core
from fisk_core import errors
from fisk_core.dataplane import handover, lines, scope, unixsocket
from fisk_core.dataplane.descriptors import Descriptors
from fisk_core.dataplane.lines import Lines, Reply, outcome
from fisk_core.dataplane.listener import Listener, listen_tcp
from fisk_core.dataplane.loop import Loop
from fisk_core.dataplane.parcel import Parcel
from fisk_core.dataplane.process import prepare, told
from fisk_core.dataplane.reception import Reception
from fisk_core.dataplane.spec import TlsOptions

if TYPE_CHECKING:
    from ssl import SSLContext

    from fisk_core.dataplane.relay import Relay
    from fisk_core.dataplane.tls import TlsSocket

LOG = logging.getLogger(__name__)
MAX_HALF_OPEN = 128
"""clients that have not named an export; one more ends the oldest of them"""
MAX_RELAYS = 256
START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class AcceptorOptions:
    """Where to listen, where the routes are, and where to be asked.

    ``succeed`` takes the listeners over from the acceptor at ``control``, if there is one; its address stays.
    """

    listen: tuple[str, int]
    exports: str
    control: str
    tls: TlsOptions | None = None
    succeed: bool = False


class Acceptor:
    """One acceptor, on its loop."""

    def __init__(self, loop: Loop, options: AcceptorOptions, tls: "SSLContext | None") -> None:
        self.loop, self.exports, self.tls = loop, Path(options.exports), tls
        self.buffer = memoryview(bytearray(128 << 10))
        self.accepted = self.passed = 0
        self._options = options
        self._started = time.time()
        self._receptions: dict[Reception, None] = {}
        self._relays: set[Relay] = set()
        self._lines: set[Lines] = set()
        self._listeners: dict[str, Listener] = {}
        self.address = ("", 0)
        self._offer: handover.Offer | None = None
        self._departed = False

    def protect(self, tls: TlsOptions) -> None:
        """Have clients come under TLS, with what its files hold when they come.

        Raises NotFound, InvalidValue or Unsupported.
        """
        from fisk_core.dataplane.tls import keep_current

        def use(context: "SSLContext") -> None:
            self.tls = context

        use(keep_current(self.loop, tls, use))

    def listen(self, kind: str, sock: socket.socket) -> None:
        """Take clients (``tcp``) or requests (``control``) from a listening socket."""
        self._listeners[kind] = Listener(self.loop, sock, self._accept if kind == "tcp" else self._ask)
        if kind == "tcp":
            host, port = sock.getsockname()[:2]
            self.address = (str(host), int(port))

    # Clients

    def _accept(self, sock: socket.socket) -> None:
        self.accepted += 1
        if len(self._receptions) >= MAX_HALF_OPEN:
            next(iter(self._receptions)).close()  # whoever means it takes moments: not the oldest
        with contextlib.suppress(OSError):  # reset meanwhile; the first receive tells
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Reception(self, sock)
        self._receptions[client] = None
        client.begin()

    def forget(self, client: Reception) -> None:
        """A client was passed on, or ended."""
        del self._receptions[client]
        self._ended()

    def relay(self, tls: "TlsSocket", plain: socket.socket) -> None:
        """Move bytes between a client under TLS and its worker."""
        from fisk_core.dataplane.relay import Relay

        relay = Relay(tls, plain, lambda relay: self.loop.from_thread(lambda: self._relay_ended(relay)))
        self._relays.add(relay)
        self.passed += 1
        relay.start()

    def _relay_ended(self, relay: "Relay") -> None:
        self._relays.discard(relay)
        self._ended()

    @property
    def room_for_relay(self) -> bool:
        return len(self._relays) < MAX_RELAYS

    def _ended(self) -> None:
        for listener in self._listeners.values():
            listener.room()
        if self._departed and not self._receptions and not self._relays:
            self.loop.stopping = True

    # Control

    def _ask(self, sock: socket.socket) -> None:
        self._lines.add(Lines(self.loop, sock, self._handle, self._lines.discard))

    def _handle(self, request: dict[str, Any], reply: Reply, fds: Descriptors) -> None:
        operation = request.get("op")
        if operation == "status":
            reply({"ok": True, **self._status()})
        elif operation == "stop":
            reply({"ok": True})
            self.loop.stopping = True
        elif operation == "handover":
            self._hand_over(reply, fds)
        else:
            raise errors.InvalidValue(f"unknown operation {operation!r}")

    def _status(self) -> dict[str, Any]:
        host, port = self.address
        return {
            "pid": os.getpid(),
            "version": fisk_core.__version__,
            "started": self._started,
            "host": host,
            "port": port,
            "tls": self.tls is not None,
            "half_open": len(self._receptions),
            "relays": len(self._relays),
            "accepted": self.accepted,
            "passed": self.passed,
        }

    def _hand_over(self, reply: Reply, fds: Descriptors) -> None:
        if self._offer:
            raise errors.InUse("the acceptor is being handed over already")

        def done(error: errors.FiskError | None) -> None:
            self._offer = None
            reply(outcome(error))
            if error is None:
                self._depart()

        self._offer = handover.Offer(self.loop, fds.take_socket(), done)
        self._offer.hurry()
        try:
            with Parcel() as parcel:
                listeners = {
                    kind: parcel.add_fd(each.sock.fileno()) for kind, each in self._listeners.items()
                }
                parcel.send(self._offer.sock, {"listeners": listeners})
        except OSError as exc:
            self._offer.withdraw(errors.from_oserror(exc, "hand over"))

    def _depart(self) -> None:
        """Go on with the clients there are, and end with the last of them."""
        self._departed = True
        for listener in self._listeners.values():
            listener.close()
        self._ended()

    def close(self) -> None:
        if self._offer:
            self._offer.withdraw(errors.Cancelled("the acceptor ends"))
        for listener in self._listeners.values():
            listener.close()
        if "control" in self._listeners and not self._departed:
            Path(self._options.control).unlink(missing_ok=True)
        for client in list(self._receptions):
            client.close()
        # Relays end with the process, which must not wait for their clients.


def run(options: AcceptorOptions) -> int:
    """Serve until told to stop; gives the exit status.  The address goes to standard output."""
    prepare()
    acceptor = Acceptor(Loop(), options, None)
    if options.tls:
        acceptor.protect(options.tls)
    try:
        if not (options.succeed and _succeed(acceptor, options.control)):
            acceptor.listen("tcp", listen_tcp(*options.listen))
            acceptor.listen("control", unixsocket.listen(options.control))
        acceptor.loop.stop_on(
            signal.SIGTERM, signal.SIGINT, call=lambda: setattr(acceptor.loop, "stopping", True)
        )
        print(*acceptor.address, flush=True)
        acceptor.loop.run()
    finally:
        acceptor.close()
    return 0


def _succeed(acceptor: Acceptor, control: str) -> bool:
    """Take the listeners over from the acceptor at ``control``; False when there is none."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        try:
            asked = lines.ask(control, {"op": "handover"}, give=[theirs.detach()])
        except errors.NotFound:
            return False
        with asked, handover.accept(ours) as delivery:
            listeners = delivery.document["listeners"]
            sockets = {kind: delivery.take_socket(number) for kind, number in listeners.items()}
            handover.take_charge(ours)
            for kind, sock in sockets.items():
                acceptor.listen(kind, sock)
    return True


def start(options: AcceptorOptions) -> "tuple[subprocess.Popen[str], tuple[str, int]]":
    """Start an acceptor that outlives this process; gives it and its address once it listens.

    Raises what kept it from listening.
    """
    with tempfile.TemporaryFile("w+") as instructions, tempfile.TemporaryFile("w+") as report:
        json.dump(asdict(options), instructions)
        instructions.seek(0)
        fds = [instructions.fileno(), report.fileno()]
        process = subprocess.Popen(
            [*scope.prefix(), sys.executable, "-m", "fisk_core.dataplane.acceptor", *map(str, fds)],
            pass_fds=fds,
            env=scope.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        with process.stdout as output:
            words = output.readline().split()
        if words:
            return process, (words[0], int(words[1]))
        status = process.wait(START_SECONDS)
        report.seek(0)
        message = report.read().strip().removeprefix("fisk: ")
    kind = errors.by_status(status) if message else errors.PoolError
    raise kind(message or f"the acceptor ended with status {status}")


def main() -> int:
    """Read what to do from the descriptor named first; what goes wrong is written to the second."""
    with os.fdopen(int(sys.argv[1])) as source:
        fields = json.load(source)
    tls, listen = fields["tls"], fields["listen"]
    options = AcceptorOptions(**{**fields, "listen": tuple(listen), "tls": tls and TlsOptions(**tls)})
    with os.fdopen(int(sys.argv[2]), "w") as report:
        return told(report, lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
