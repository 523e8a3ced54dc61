# SPDX-License-Identifier: Apache-2.0
"""Requests to the daemon: kept connections, deadlines, and retries of what may safely be sent again.

What may be sent again:

- anything that was surely not worked on: no connection came about, or the daemon said 429 or 503;
- what has the same effect twice, after anything else that may pass (the connection broke, no answer in time,
  502, 504): reading, deleting, and creating under an id that we chose.

Between tries it waits a random time up to a limit that doubles ("full jitter"), at least what ``Retry-After``
says, and never beyond the deadline of the call.

Safe from several threads, each of which gets a connection of its own; after a fork the child opens new ones.
"""

import os
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import requests
from requests.exceptions import RequestException
from urllib3.exceptions import NewConnectionError

from fisk_core import __version__
from fisk_core.client.address import Address
from fisk_core.client.answers import error_of_response
from fisk_core.client.unixhttp import Adapter
from fisk_core.errors import FiskError, InvalidValue, NotFound, ProtocolError, Unavailable

_IDLE_SECONDS = 3.0  # kept connections are not used after this: the server drops them after five
_REFUSED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_PASSING = (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for one call with all its tries; without any connection; the pauses between tries."""

    total: float = 60.0
    connect: float = 10.0
    shortest: float = 0.05
    longest: float = 5.0

    def pause(self, tries: int) -> float:
        """Give how long to wait after so many tries."""
        return random.uniform(0, min(self.longest, self.shortest * 2.0 ** min(tries, 30)))


class _Failure(Exception):
    """A try that failed; ``sent``: it may have been worked on."""

    def __init__(self, error: FiskError, *, sent: bool, after: float = 0.0, connected: bool = True) -> None:
        super().__init__(str(error))
        self.error, self.sent, self.after, self.connected = error, sent, after, connected


class Transport:
    """Talks to one daemon."""

    def __init__(self, address: Address, patience: Patience | None = None) -> None:
        self.address = address
        self.patience = patience or Patience()
        self._idle: deque[tuple[requests.Session, float]] = deque()
        self._pid = os.getpid()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        again: bool | None = None,
        seconds: float = 0.0,
    ) -> Any:
        """Send a request and give its answer, decoded; None when that is empty.

        ``again``: it has the same effect twice (default for GET and DELETE); ``seconds`` more than usual may
        pass until it is answered.  Raises the error of a problem document, Unavailable, ProtocolError.
        """
        repeatable = method in ("GET", "DELETE") if again is None else again
        begun, tries, unsure = time.monotonic(), 0, False
        deadline = begun + self.patience.total + seconds
        while True:
            try:
                return self._try(method, path, json, params, deadline - time.monotonic())
            except _Failure as failure:
                unsure = unsure or failure.sent
                now = time.monotonic()
                limit = deadline if failure.connected else begun + self.patience.connect
                pause = failure.after + self.patience.pause(tries)
                if (failure.sent and not repeatable) or now + pause >= limit:
                    raise failure.error from failure.__cause__
            except NotFound:
                if unsure and method == "DELETE":
                    return None  # an earlier try did it, and its answer was lost
                raise
            time.sleep(pause)
            tries += 1

    def _try(
        self, method: str, path: str, json: Any, params: Mapping[str, Any] | None, seconds: float
    ) -> Any:
        with self._session() as session, self._failures():
            response = session.request(
                method,
                f"{self.address.base}/v1{path}",
                json=json,
                params=params,
                timeout=max(0.001, seconds),
                allow_redirects=False,
            )
        return self._answer(response)

    def _answer(self, response: requests.Response) -> Any:
        status = response.status_code
        if status >= 300:
            error = error_of_response(response, self.address.url)
            if status in _REFUSED or status in _PASSING:
                raise _Failure(error, sent=status in _PASSING, after=_retry_after(response))
            raise error
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as exc:
            raise ProtocolError(f"{self.address.url} answered with something that is not JSON") from exc

    @contextmanager
    def stream(self, path: str, *, params: Mapping[str, Any], silence: float) -> Iterator[requests.Response]:
        """Open an answer that goes on and on; broken off after ``silence`` seconds without a byte.

        Not retried.  Raises what ``call`` does; Unavailable also when it breaks off while it is read.
        """
        session = self._new_session()
        try:
            with self._failures():
                response = session.get(
                    f"{self.address.base}/v1{path}",
                    params=params,
                    headers={"Accept": "text/event-stream"},
                    timeout=(self.patience.connect, silence),
                    stream=True,
                    allow_redirects=False,
                )
            with response:
                if response.status_code != HTTPStatus.OK:
                    raise error_of_response(response, self.address.url)
                with self._failures():
                    yield response
        except _Failure as failure:
            raise failure.error from failure.__cause__
        finally:
            session.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except RequestException as exc:
            if isinstance(exc, ValueError):  # there is no such host or header: no other try will find one
                raise InvalidValue(f"the daemon at {self.address.url} cannot be asked: {exc}") from exc
            unsent = isinstance(exc, requests.ConnectTimeout) or _caused_by(exc, NewConnectionError)
            what = "cannot be reached" if unsent else "broke off or did not answer in time"
            error = Unavailable(f"the daemon at {self.address.url} {what}: {_reason(exc)}")
            raise _Failure(error, sent=not unsent, connected=not unsent) from exc

    # Connections

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        session = self._take()
        try:
            yield session
        except BaseException:
            session.close()  # whatever is on its way there belongs to nobody
            raise
        self._idle.append((session, time.monotonic()))

    def _take(self) -> requests.Session:
        if self._pid != os.getpid():
            # The parent's connections: closing our copies of them tells the other side nothing.
            self.close()
            self._pid = os.getpid()
        while True:
            try:
                session, since = self._idle.pop()
            except IndexError:
                return self._new_session()
            if time.monotonic() - since < _IDLE_SECONDS:
                return session
            session.close()

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # no proxy, no .netrc (which would take the place of our token)
        session.mount("http+unix://", Adapter())  # type: ignore[no-untyped-call]
        session.verify = self.address.cacert or True
        session.headers["User-Agent"] = f"fisk/{__version__}"
        if self.address.token:
            session.headers["Authorization"] = f"Bearer {self.address.token}"
        return session

    def close(self) -> None:
        """Close the kept connections; the next call opens one again."""
        while self._idle:
            try:
                session, _ = self._idle.pop()
            except IndexError:  # another thread took it
                return
            session.close()


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Give an exception and all it was made from: urllib3 hides causes in ``reason`` and in arguments."""
    todo: list[object] = [exc]
    seen: set[int] = set()
    while todo:
        each = todo.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            todo += [getattr(each, "reason", None), *each.args, each.__cause__, each.__context__]


def _caused_by(exc: BaseException, kind: type[BaseException]) -> bool:
    return any(isinstance(each, kind) for each in _chain(exc))


def _reason(exc: BaseException) -> str:
    """Give what the system said, where it said something."""
    said = next((each.strerror for each in _chain(exc) if isinstance(each, OSError) and each.strerror), None)
    return str(said or type(exc).__name__)
