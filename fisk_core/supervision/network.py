# SPDX-License-Identifier: Apache-2.0
"""The acceptor of this host: found, started, started again when it ends, replaced, stopped."""

import logging
import os
import subprocess
import threading
from contextlib import suppress
from typing import Any

from fisk_core.config import Home, NbdSettings
from fisk_core.dataplane import acceptor, control
from fisk_core.dataplane.acceptor import AcceptorOptions
from fisk_core.dataplane.spec import TlsOptions
from fisk_core.errors import FiskError, InvalidValue, NotFound
from fisk_core.supervision.processes import end
from fisk_core.supervision.watch import Watch

LOG = logging.getLogger(__name__)
_AGAIN_SECONDS = 2.0
_STOP_SECONDS = 10.0


class Network:
    """The host's acceptor process; it lets clients in while nobody supervises it, too."""

    def __init__(self, home: Home, settings: NbdSettings, watch: Watch) -> None:
        self._home, self._watch = home, watch
        self._listen = _address(settings.listen) if settings.listen else None
        self._tls = TlsOptions(settings.tls_dir, verify=settings.tls_verify) if settings.tls_dir else None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._pidfd = -1
        self._stopping = False
        self._complaint = ""
        self.address: tuple[str, int, bool] | None = None
        """where it listens, and whether under TLS; None while it does not"""

    def start(self) -> None:
        """Find it or start it; one that cannot listen is tried again later."""
        with self._lock:
            if self._stopping:
                return
            try:
                self._find_or_start()
            except FiskError as exc:
                if str(exc) != self._complaint:
                    LOG.warning("nobody can connect from the network for now: %s", exc)
                self._complaint = str(exc)
                self._watch.later(_AGAIN_SECONDS, self.start)

    def _find_or_start(self) -> None:
        status = self._status()
        if status is not None and (self._listen is None or self._differs(status)):
            self._end(status["pid"])
            status = None
        if self._listen is None:
            return
        if status is None:
            self._process, _ = acceptor.start(self._options(self._listen, succeed=False))
            status = self._status()
            if status is None:
                raise NotFound("the acceptor ended as soon as it had started")
        self._adopt(status)

    def _differs(self, status: dict[str, Any]) -> bool:
        """Say whether the acceptor that runs is not as it should be by now."""
        assert self._listen is not None
        same_port = self._listen[1] in (0, status["port"])
        return not same_port or status["tls"] != bool(self._tls)

    def _status(self) -> dict[str, Any] | None:
        with suppress(NotFound):
            return control.call(self._home.acceptor, {"op": "status"})
        return None

    def _options(self, listen: tuple[str, int], *, succeed: bool) -> AcceptorOptions:
        return AcceptorOptions(
            listen, str(self._home.exports), str(self._home.acceptor), self._tls, succeed=succeed
        )

    def _adopt(self, status: dict[str, Any]) -> None:
        with suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(status["pid"])
            self._watch.process(self._pidfd, self._ended)
            self.address = (status["host"], status["port"], status["tls"])
            return
        raise NotFound("the acceptor ended")

    def _ended(self) -> None:
        with self._lock:
            self._reap()
            if self._stopping:
                return
        LOG.warning("the acceptor ended; starting another")
        self.start()

    def upgrade(self) -> None:
        """Have a fresh process take the listeners over; who is connected already stays with the old one."""
        with self._lock:
            if self.address is None or self._listen is None:
                return
            self._watch.forget(self._pidfd)
            old = self._process
            listen = (self._listen[0], self.address[1])
            self._process, _ = acceptor.start(self._options(listen, succeed=True))
            if old is not None:
                # It ends with its last client; nobody else would ask for its exit status.
                self._watch.process(os.pidfd_open(old.pid), lambda: _wait(old))
            status = self._status()
            if status is not None:
                self._adopt(status)

    def stop(self) -> None:
        """End it, and with it the clients under TLS."""
        with self._lock:
            self._stopping = True
            self._watch.forget(self._pidfd)
            status = self._status()
            if status is not None:
                self._end(status["pid"])
            self._reap()
            self.address = None

    def close(self) -> None:
        """Leave it running."""
        if self._process is not None:
            self._process.returncode = 0  # on purpose it is not waited for: not to be warned of

    def _end(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                with suppress(FiskError):
                    control.call(self._home.acceptor, {"op": "stop"})
                end(pidfd, _STOP_SECONDS)
            finally:
                os.close(pidfd)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(_STOP_SECONDS)
            self._process = None


def _wait(process: "subprocess.Popen[str]") -> None:
    process.wait()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 0xFFFF:
        raise InvalidValue(f"[nbd] listen: '{text}' is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)
