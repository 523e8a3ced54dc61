# SPDX-License-Identifier: Apache-2.0
"""A socket for a pipelined client: buffered input, queued output, and a deadline on every wait.

Whenever it has to wait for input it goes on sending what is queued, and while it waits to send the caller is
told about input.  So two sides that both have much to say never wait for each other for ever.  After any
exception the stream is of no further use.
"""

import select
import socket
import ssl
import time
from collections import deque
from typing import Any

from fisk_core.errors import FiskError, InvalidValue, ProtocolError, from_oserror

BUFFER = 256 << 10
_DIRECT = 16 << 10  # bytes from which receiving straight into the target beats one copy
_GATHER = 64  # parts of one sendmsg, well below the kernel's limit of 1024
_WANT_READ = (BlockingIOError, ssl.SSLWantReadError)
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class _Select:
    """What ``select.poll`` is for one socket, by ``select.select``."""

    def register(self, sock: socket.socket, mask: int) -> None:
        self._sock, self._wanted = sock, mask

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        reading = [self._sock] if self._wanted & select.POLLIN else []
        writing = [self._sock] if self._wanted & select.POLLOUT else []
        readable, writable, _ = select.select(reading, writing, [], milliseconds / 1000)
        events = (select.POLLIN if readable else 0) | (select.POLLOUT if writable else 0)
        return [(self._sock.fileno(), events)] if events else []


def _poller() -> "select.poll | _Select":
    """Give what waits for a socket; eventlet leaves a process ``select`` only, which lets others run."""
    return select.poll() if hasattr(select, "poll") else _Select()


class Stream:
    """Owns ``sock``; ``timeout`` seconds are what ``arm`` gives the operations that follow it."""

    def __init__(self, sock: socket.socket, timeout: float, peer: str) -> None:
        self._sock = sock
        self._peer = peer
        self._timeout = timeout
        self._deadline = 0.0
        self._queue: deque[memoryview] = deque()
        self.queued = 0
        self.buffer = bytearray(BUFFER)
        self._view = memoryview(self.buffer)
        self._start = self._end = 0
        self._poll = _poller()
        self._mask = 0
        sock.setblocking(False)
        self.arm()

    def arm(self) -> None:
        """From now on ``timeout`` seconds may pass until the next call of this."""
        self._deadline = time.monotonic() + self._timeout

    def close(self) -> None:
        self._sock.close()
        self._queue.clear()

    def release(self) -> socket.socket:
        """Send what is queued and give the socket to another; the stream is of no further use.

        Raises ProtocolError when input has arrived that the other would not see.
        """
        while not self.push():
            self._wait(select.POLLOUT)
        if self.buffered():
            raise ProtocolError(f"{self._peer} sent data that nobody asked for")
        return self._sock

    # Waiting

    def _wait(self, mask: int) -> int:
        """Wait for one of the poll events ``mask``; raises ProtocolError at the deadline."""
        left = self._deadline - time.monotonic()
        if left > 0:
            if mask != self._mask:
                self._poll.register(self._sock, mask)
                self._mask = mask
            for _, events in self._poll.poll(left * 1000):
                return events
        raise ProtocolError(f"{self._peer} did not answer within {self._timeout:g} s")

    def _failed(self, exc: OSError) -> FiskError:
        if isinstance(exc, ssl.SSLError):
            return ProtocolError(f"TLS with {self._peer}: {exc.reason or exc}")
        if isinstance(exc, (BrokenPipeError, ConnectionResetError)):
            return ProtocolError(f"{self._peer} broke the connection")
        return from_oserror(exc, f"talk to {self._peer}")

    # Output

    def put(self, *parts: Any) -> None:
        """Queue byte strings or buffers; a buffer must stay as it is until it has been sent."""
        for part in parts:
            view = memoryview(part)
            self._queue.append(view)
            self.queued += len(view)

    def push(self) -> bool:
        """Send what the socket takes now; True when nothing is left."""
        while self._queue:
            try:
                sent = self._send()
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except OSError as exc:
                raise self._failed(exc) from exc
            self._sent(sent)
        return True

    def _send(self) -> int:
        if isinstance(self._sock, ssl.SSLSocket):
            return self._sock.send(self._queue[0])
        return self._sock.sendmsg([part for part, _ in zip(self._queue, range(_GATHER), strict=False)])

    def _sent(self, count: int) -> None:
        self.queued -= count
        while self._queue and count >= len(self._queue[0]):
            count -= len(self._queue.popleft())
        if count:
            self._queue[0] = self._queue[0][count:]

    def push_or_input(self) -> bool:
        """Send all that is queued and give True; or give False as soon as there is input to handle first."""
        while not self.push():
            if self.buffered() or self._wait(select.POLLIN | select.POLLOUT) & _READABLE:
                return False
        return True

    # Input

    def buffered(self) -> bool:
        """Whether some input has been received already and waits to be taken."""
        if self._end > self._start:
            return True
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def _receive(self, view: memoryview) -> int:
        """Receive at least one byte into ``view``, sending meanwhile; the end of input is a ProtocolError."""
        while True:
            if self._queue:
                self.push()
            mask = select.POLLIN
            try:
                count = self._sock.recv_into(view)
                if count == 0:
                    raise ProtocolError(f"{self._peer} closed the connection")
                return count
            except _WANT_READ:
                mask |= select.POLLOUT if self._queue else 0
            except ssl.SSLWantWriteError:
                mask = select.POLLOUT
            except OSError as exc:
                raise self._failed(exc) from exc
            self._wait(mask)

    def _fill(self, count: int) -> None:
        have = self._end - self._start
        if self._start + count > BUFFER or not have:
            self._view[:have] = self._view[self._start : self._end]
            self._start, self._end = 0, have
        while self._end - self._start < count:
            self._end += self._receive(self._view[self._end :])

    def take(self, count: int) -> int:
        """Give the position in ``buffer`` of the next ``count`` bytes of input (at most BUFFER).

        They stay there only until the next call.
        """
        if self._end - self._start < count:
            self._fill(count)
        at = self._start
        self._start += count
        return at

    def read_into(self, target: memoryview) -> None:
        """Fill ``target`` with the next bytes of input."""
        length = len(target)
        done = min(length, self._end - self._start)
        if done:
            target[:done] = self._view[self._start : self._start + done]
            self._start += done
        while length - done >= _DIRECT:
            done += self._receive(target[done:])
        if done < length:
            at = self.take(length - done)
            target[done:] = self._view[at : self._start]

    def read(self, count: int) -> bytes:
        """Give the next ``count`` bytes of input."""
        data = bytearray(count)
        self.read_into(memoryview(data))
        return bytes(data)

    # TLS

    def start_tls(self, context: ssl.SSLContext, hostname: str) -> None:
        """Continue under TLS.  Input received ahead of it is not from whom TLS vouches for: it is refused."""
        if self.buffered():
            raise ProtocolError(f"{self._peer} sent data between agreeing on TLS and starting it")
        try:
            secure = context.wrap_socket(self._sock, server_hostname=hostname, do_handshake_on_connect=False)
        except OSError as exc:
            raise self._failed(exc) from exc
        except ValueError as exc:
            raise InvalidValue(f"'{hostname}' is not the name of a TLS server: {exc}") from exc
        self._sock = secure
        self._poll, self._mask = _poller(), 0
        while not self._shake(secure):
            pass

    def _shake(self, secure: ssl.SSLSocket) -> bool:
        try:
            secure.do_handshake()
        except ssl.SSLWantReadError:
            self._wait(select.POLLIN)
        except ssl.SSLWantWriteError:
            self._wait(select.POLLOUT)
        except OSError as exc:
            raise self._failed(exc) from exc
        else:
            return True
        return False
