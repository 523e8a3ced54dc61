# SPDX-License-Identifier: Apache-2.0
"""The NBD server of one Fisk: listeners, connections and the disk behind them, on one loop.

Changes to what is served (a new period, another map, a larger size) happen between two rounds of the loop,
so every request sees the disk either before or after, never between.
"""

import contextlib
import logging
import os
import socket
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from fisk_core import errors
from fisk_core.blockmap import read_log_header
from fisk_core.blockmap.source import MAX_ALIAS
from fisk_core.dataplane import classes, unixsocket
from fisk_core.dataplane.arrivals import Arrivals
from fisk_core.dataplane.cold import ColdReads, Deferred
from fisk_core.dataplane.connection import Connection
from fisk_core.dataplane.disk import Disk, NextPeriod, Period
from fisk_core.dataplane.flusher import Flusher
from fisk_core.dataplane.listener import Listener, listen_tcp
from fisk_core.dataplane.loop import Loop
from fisk_core.dataplane.metrics import Looks, Metrics
from fisk_core.dataplane.qos import Limits
from fisk_core.dataplane.spec import DiskSpec, FenceOptions, TlsOptions, TurnOptions
from fisk_core.dataplane.start import Start
from fisk_core.dataplane.status import Export
from fisk_core.dataplane.throttle import limit
from fisk_core.dataplane.transmission import Transmission
from fisk_core.dataplane.turn import Turn
from fisk_core.pools.base import Device

if TYPE_CHECKING:
    from ssl import SSLContext

    from fisk_core.dataplane.departure import Departure
    from fisk_core.dataplane.fence import Fence
    from fisk_core.dataplane.outgoing import Outgoing

LOG = logging.getLogger(__name__)
MAX_CONNECTIONS = 256
_INLINE_DISCARD = 64 << 10
_RELEASE_SECONDS = 5.0
_SO_SNDBUFFORCE = 32
_SOCKET_BUFFER = 4 << 20
_GOODBYE_SECONDS = 2.0
"""how long a client may take its last answers"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a Fisk is served; ``listen`` is (host, port), port 0 takes a free one.

    At the socket ``reader`` clients get an export that is read-only, whoever else writes.
    """

    unix: str | None = None
    reader: str | None = None
    listen: tuple[str, int] | None = None
    control: str | None = None
    export: str | None = None
    tls: TlsOptions | None = None
    listed: bool = True
    announce: bool = False
    fence: FenceOptions | None = None
    turn: TurnOptions | None = None
    lock: int | None = None
    """the descriptor that holds the Fisk's lock in the worker's process"""
    parent: int | None = None
    """the process that the worker ends with; None: it goes on by itself"""

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "ServeOptions":
        """Give the options of which ``fields`` are the JSON object."""
        listen, tls, fence, turn = fields["listen"], fields["tls"], fields["fence"], fields.get("turn")
        return cls(
            **{
                **fields,
                "listen": listen and tuple(listen),
                "tls": tls and TlsOptions(**tls),
                "fence": fence and FenceOptions(**fence),
                "turn": turn and TurnOptions(**turn),
            }
        )


class ServedDisk(Disk):
    """A disk whose large discards happen on a thread: punching many extents takes long."""

    server: "Server"

    def relieve(self) -> None:
        """Flush in the background, once."""
        if self.server.flusher.idle:
            self.server.flusher.flush(lambda error: None)

    def discard(self, layer: Device, offset: int, length: int) -> None:
        if length <= _INLINE_DISCARD:
            layer.discard(offset, length)
            return
        span = (offset, offset + length)
        self.discarding.append(span)

        def done(_: None, error: Exception | None) -> None:
            self.discarding.remove(span)
            if error is not None:
                # Only space was to return; the map says zeros already, and the collector finds the rest.
                LOG.warning("discard of %d bytes failed: %s", length, error)

        self.server.loop.submit("discard", 1, lambda: layer.discard(offset, length), done)


class Server:
    """One served Fisk."""

    def __init__(self, loop: Loop, spec: DiskSpec, options: ServeOptions, *, untouched: bool = False) -> None:
        """Open the disk; ``untouched`` as for :meth:`Disk.open`."""
        self.loop, self.options = loop, options
        self.metrics, self.looks = Metrics(), Looks(self)
        self.conduct = classes.USUAL
        self.attributes: Mapping[str, str] = {}
        """those of the Fisk that are acted upon now"""
        self.disk = self._open(spec, untouched)
        self.export = Export(
            self.disk, options.export if options.export is not None else spec.name, options.listed
        )
        self.tls: SSLContext | None = None
        if options.tls:
            from fisk_core.dataplane.tls import keep_current

            self._use_tls(keep_current(loop, options.tls, self._use_tls))
        self.transmission = Transmission(self)
        self.cold, self.deferred, self.flusher = ColdReads(self), Deferred(self), Flusher(self)
        self.arrivals = Arrivals(self)
        self.connections: set[Connection] = set()
        self._pauses: set[str] = set()
        self.paused = False
        """no request is looked at for now"""
        self._retired: list[Disk] = []
        self.listeners: dict[str, Listener] = {}
        """by what they are: unix, tcp, control"""
        self.closing: list[Callable[[], None]] = []
        """called before anything is closed"""
        self.fence: Fence | None = None
        self.turn: Turn | None = None
        """another host writes, and this server waits for its turn"""
        if options.turn:
            self.turn, self.export.waits = Turn(self, options.turn), True
        self.refusing: str | None = None
        """why no connection is taken any more"""
        self.departure: Departure | None = None
        _release_later(loop, weakref.ref(self))
        """handing over to a successor"""
        self.departed = False
        """a successor has everything"""
        self._begin_with(spec.attributes)

    def _open(self, spec: DiskSpec, untouched: bool = False) -> ServedDisk:
        disk = ServedDisk.open(None, spec, untouched=untouched)
        assert isinstance(disk, ServedDisk)
        disk.server = self
        disk.layers.advise(self.conduct.advice)
        return disk

    def _use_tls(self, tls: "SSLContext") -> None:
        """Have clients that come from now on meet this."""
        self.tls = tls

    # What the attributes of the Fisk ask for

    def _begin_with(self, attributes: Mapping[str, str]) -> None:
        try:
            self.act_upon(attributes, lambda _: None)
        except errors.InvalidValue as exc:
            # Another version may have stored them.  A disk that cannot be used would be worse.
            LOG.warning("class and limits of Fisk %s are left out: %s", self.disk.spec.name, exc)

    def act_upon(self, attributes: Mapping[str, str], done: Callable[[Exception | None], None]) -> None:
        """Take up the class and keep the limits among the attributes, from the next request on.

        ``done`` is called at once, or, when flushes were only answered until now, after a real one.  Raises
        InvalidValue, and changes nothing then.
        """
        conduct, limits = classes.conduct_of(attributes), Limits.from_attributes(attributes)
        was_volatile = self.conduct.volatile
        self.attributes = dict(attributes)
        classes.take_up(self, conduct)
        limit(self, limits)
        if was_volatile and not conduct.volatile and not self.disk.read_only:
            self.flusher.flush(done)
        else:
            done(None)

    # Listening

    def listen(self) -> None:
        """Open the listeners for clients."""
        for kind, path in (("unix", self.options.unix), ("reader", self.options.reader)):
            if path:
                if len(os.fsencode(path)) > unixsocket.MAX_PATH:
                    raise errors.InvalidValue(f"no client can connect to a path as long as {path}")
                self.add_listener(kind, unixsocket.listen(path))
        if self.options.listen:
            self.add_listener("tcp", listen_tcp(*self.options.listen))

    def listen_control(self, accept: Callable[[socket.socket], None]) -> None:
        """Open the control socket, if there is to be one."""
        if self.options.control:
            self.add_listener("control", unixsocket.listen(self.options.control), accept)

    def add_listener(
        self, kind: str, sock: socket.socket, accept: Callable[[socket.socket], None] | None = None
    ) -> None:
        """Take connections from a listening socket; without ``accept`` they are clients'."""
        clients = self._accept_reader if kind == "reader" else self._accept
        self.listeners[kind] = Listener(self.loop, sock, accept or clients)

    @property
    def uris(self) -> list[str]:
        """The NBD URIs of the listeners."""
        uris, name = [], quote(self.export.name)
        scheme = "nbds" if self.tls else "nbd"
        if "unix" in self.listeners and self.options.unix:
            uris.append(f"{scheme}+unix:///{name}?socket={quote(self.options.unix)}")
        tcp = self.listeners.get("tcp")
        if tcp and tcp.sock.fileno() >= 0:
            host, port = tcp.sock.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            uris.append(f"{scheme}://{shown}:{port}/{name}")
        return uris

    def stop_listening(self, why: str) -> None:
        """Take no client any more."""
        self.refusing = why
        for kind in ("unix", "reader", "tcp"):
            if kind in self.listeners:
                self.listeners[kind].close()

    def _accept(self, sock: socket.socket) -> None:
        if len(self.connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        self.add_connection(sock)

    def _accept_reader(self, sock: socket.socket) -> None:
        if len(self.connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        self.add_connection(sock, Start(read_only=True))

    def check_room(self) -> None:
        """Raise InUse or LimitExceeded when no further client can be served."""
        if self.refusing:
            raise errors.InUse(self.refusing)
        if len(self.connections) >= MAX_CONNECTIONS:
            raise errors.LimitExceeded(f"{MAX_CONNECTIONS} clients are connected already")

    def add_connection(self, sock: socket.socket, start: Start | None = None) -> Connection:
        """Serve a connected socket."""
        if sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # reset meanwhile; the first receive tells
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            with contextlib.suppress(OSError):  # only root may; the usual size works too
                sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SOCKET_BUFFER)
        start = start or Start()
        conn = Connection(self, sock, start)
        self.connections.add(conn)
        self.guard(conn, partial(conn.open, start.received))
        return conn

    # Connections

    def guard(self, conn: Connection, call: Callable[[], T]) -> T | None:
        """Call something that sends to ``conn``; close it when it is broken."""
        try:
            return call()
        except (errors.ProtocolError, OSError) as exc:
            self.note_closed(conn, exc)
            conn.close()
            return None

    def resume(self, conn: Connection) -> None:
        """Look at requests that waited in the inbox of ``conn``, on the next round."""
        self.loop.later(0, lambda: self.process(conn))

    def process(self, conn: Connection) -> None:
        """Look at the requests in the inbox of ``conn``."""
        if not conn.closed and conn.agreed:
            self.guard(conn, lambda: self.transmission.process(conn))

    def forget(self, conn: Connection) -> None:
        self.connections.discard(conn)
        for listener in self.listeners.values():
            listener.room()

    @property
    def kept(self) -> int:
        """Bytes that requests of all connections hold, or that wait for their clients."""
        return sum(conn.held + conn.queued for conn in self.connections)

    def drop_connections(self) -> None:
        """Close all connections, once what they asked for is answered; clients may come back."""
        for conn in list(self.connections):
            if conn.agreed:
                conn.finish()
                self.loop.later(_GOODBYE_SECONDS, conn.close)
            else:
                conn.close()

    def note_closed(self, conn: Connection, why: Exception) -> None:
        LOG.debug("connection %d of %s closed: %s", conn.fd, self.export.name, why)

    def note_failure(self, error: Exception) -> None:
        LOG.error("Fisk %s is read-only from now on: %s", self.disk.spec.name, error)

    # Changes of what is served

    def pause(self, why: str) -> None:
        """Answer no further requests until :meth:`unpause`; those waiting for the disk are answered."""
        self._pauses.add(why)
        self.paused = True
        for conn in self.connections:
            conn.watch()

    def is_paused(self, why: str) -> bool:
        """Say whether this pause is in force."""
        return why in self._pauses

    def unpause(self, why: str) -> None:
        """End one pause; requests are answered again when no other holds them."""
        self._pauses.discard(why)
        if self._pauses or not self.paused:
            return
        self.paused = False
        for conn in list(self.connections):
            conn.watch()
            self.resume(conn)

    def switch(
        self, spec: DiskSpec, done: Callable[[Exception | None], None], *, paused: bool = False
    ) -> None:
        """Serve the period or map of ``spec`` from one request on.

        ``done`` is called when what was written until then is durable, or nothing was changed; switching to
        what is served already only makes that durable.  ``paused``: only if no client can have written in
        between.  Raises InUse, and what opening the new map raises.
        """
        self._require(paused)
        self._require_turn()
        if self.disk.fenced:
            self.disk.writable()
        if spec.map_id == self.disk.spec.map_id:
            self.flusher.flush(done)
        elif self._continues(spec):
            # Files are made on a thread: on a busy medium that takes longer than clients should wait.
            following = self.disk.next_period(spec)
            enter = partial(self._enter, following, done, paused)
            opener = self.outgoing.opener(following) if self.outgoing else following.open
            self.loop.submit("switch", 1, opener, enter)
        else:
            self._replace(spec, done)

    def _require(self, paused: bool) -> None:
        if paused and not self.is_paused("control"):
            raise errors.InUse("the pause is over, clients may have written since; nothing was switched")

    def _require_turn(self) -> None:
        if self.turn:
            raise errors.InUse("another host writes the Fisk; it has to be changed there")

    def _enter(
        self,
        following: NextPeriod,
        done: Callable[[Exception | None], None],
        paused: bool,
        new: Period | None,
        error: Exception | None,
    ) -> None:
        """Go on in a period that was opened."""
        if new is None:
            self._replaced(partial(done, error))
            return
        try:
            self._require(paused)
        except errors.FiskError as exc:
            new.give_up()
            self._replaced(partial(done, exc))
            return
        old, disk = self.disk.period, self.disk
        try:
            flush = disk.enter_period(following, new)
        except errors.FiskError as exc:
            self._replaced(partial(done, exc))
            return
        assert old is not None
        self.transmission.disk_changed()
        self.flusher.seal(disk, flush, partial(_sealed, old, done))

    def _continues(self, spec: DiskSpec) -> bool:
        """Say whether ``spec`` is a new period on top of what is served, all of it."""
        disk = self.disk
        if spec.read_only or disk.period is None or disk.failed or len(disk.map.layers) >= MAX_ALIAS:
            return False
        if spec.pool["name"] != disk.pool.name:
            return False
        header = read_log_header(disk.pool, spec.map_id)
        return header.base_id == disk.spec.map_id and header.base_size == disk.size == spec.size

    def _replace(self, spec: DiskSpec, done: Callable[[Exception | None], None]) -> None:
        """Make the old disk durable and then serve another; requests wait meanwhile."""
        self.pause("replace")
        spec = replace(spec, epoch=self.disk.spec.epoch)

        def swap(error: Exception | None) -> None:
            try:
                if error is None:
                    new, self._retired = self._open(spec), [*self._retired, self.disk]
                    self.disk = self.export.disk = new
                    self.transmission.disk_changed()
            except errors.FiskError as exc:
                error = exc
            self._replaced(partial(go_on, error))

        def go_on(error: Exception | None) -> None:
            self.unpause("replace")
            self.loop.barrier(self._close_retired)
            done(error)

        if self.disk.period is None or self.disk.failed:
            swap(None)
        else:
            # Changes that were put off are made before the last flush of the old disk.
            self.loop.barrier(lambda: self.flusher.flush(swap))

    def become_writer(self, spec: DiskSpec) -> None:
        """Serve ``spec`` for writing, after waiting for that; raises what opening it raises."""
        new = self._open(spec)
        self._retired.append(self.disk)
        self.disk = self.export.disk = new
        self.turn, self.export.waits = None, False
        self.transmission.disk_changed()
        self._begin_with(spec.attributes)
        self.loop.barrier(self._close_retired)

    @property
    def outgoing(self) -> "Outgoing | None":
        """The answer to a host that waits for its turn, where there can be one."""
        return self.fence.outgoing if self.fence else None

    def _replaced(self, done: Callable[[], None]) -> None:
        """Tell whoever waits for its turn what is served now, then go on."""
        if self.outgoing:
            self.outgoing.replaced(done)
        else:
            done()

    @property
    def quiet(self) -> bool:
        """No request waits for the disk, and nothing else is under way on it."""
        return (
            self.loop.idle
            and self.flusher.idle
            and not self._retired
            and not any(conn.pending for conn in self.connections)
        )

    def give_up(self) -> None:
        """Close the disks without touching them: another process has them now."""
        for disk in [*self._retired, self.disk]:
            disk.abandon()

    def release(self) -> None:
        """Let go of layers that are gone, when no reply on its way needs one.

        A frozen disk keeps all of its layers: whoever reads it has it to the end.
        """
        if not self.disk.read_only and not any(conn.outbox for conn in self.connections):
            self.disk.layers.release()

    def _close_retired(self) -> None:
        """Close replaced disks once no thread and no unsent reply uses their layers."""
        if any(conn.outbox for conn in self.connections):
            self.loop.later(0.1, self._close_retired)
            return
        for disk in self._retired:
            disk.close()
        self._retired.clear()

    def take_charge(self) -> None:
        """Begin to write the disk that was opened untouched."""
        self.disk.take_charge()
        self.transmission.disk_changed()

    def resize(self, size: int) -> None:
        """Offer a larger size to connections made from now on, and accept requests up to it at once."""
        self._require_turn()
        if self.disk.fenced:
            self.disk.writable()
        self.disk.resize(size)
        self.transmission.disk_changed()

    def close(self) -> None:
        """Stop listening, drop the connections, make everything durable; raises when that fails."""
        if self.departure:
            self.departure.withdraw(errors.Cancelled("the worker ends"))
        for call in self.closing:
            call()
        for listener in self.listeners.values():
            listener.close()
        options = self.options
        for kind, path in (("unix", options.unix), ("reader", options.reader), ("control", options.control)):
            if path and kind in self.listeners:
                with contextlib.suppress(OSError):  # a socket nobody listens at is in nobody's way
                    os.unlink(path)
        for conn in list(self.connections):
            conn.close()
        self.loop.close()
        self.arrivals.close()
        with contextlib.ExitStack() as stack:  # each of them, whatever becomes of the others
            for disk in [self.disk, *self._retired]:
                stack.callback(disk.close)


def _sealed(period: Period, done: Callable[[Exception | None], None], error: Exception | None) -> None:
    period.end(durable=error is None)
    done(error)


def _release_later(loop: Loop, this: "weakref.ref[Server]") -> None:
    """Have the server release layers every now and then; the timer does not keep a server that ended."""

    def release() -> None:
        server = this()
        if server is not None:
            server.release()
            _release_later(loop, this)

    loop.later(_RELEASE_SECONDS, release)
