# SPDX-License-Identifier: Apache-2.0
"""The worker process: serves one Fisk until it is told to stop, then makes everything durable.

It holds the Fisk's lock by an inherited descriptor, so that the lock ends when the process does, however
it ends.
"""

import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TextIO

from fisk_core import _linux
from fisk_core.dataplane.control import Control
from fisk_core.dataplane.fence import check, watch
from fisk_core.dataplane.loop import Loop
from fisk_core.dataplane.process import prepare, told
from fisk_core.dataplane.server import ServeOptions, Server
from fisk_core.dataplane.spec import DiskSpec


def run(spec: DiskSpec, options: ServeOptions) -> int:
    """Serve until stopped; gives the exit status.  The URIs go to standard output when asked for."""
    _prepare()
    if options.fence:
        check(options.fence)
    server = Server(Loop(), spec, options)

    def begin(control: Control) -> None:
        server.listen()
        server.listen_control(control.accept)

    return _run(server, begin)


def succeed(sock: socket.socket) -> int:
    """Go on where the worker at the other end of ``sock`` stops; gives the exit status.

    Raises Cancelled when that one goes on itself.
    """
    from fisk_core.dataplane.succession import Succession

    _prepare()
    succession = Succession.receive(Loop(), sock)
    return _run(succession.server, succession.serve)


def _run(server: Server, begin: Callable[[Control], None]) -> int:
    loop, options = server.loop, server.options
    try:
        watch(server)  # before anybody is served: another host may be waiting
        begin(Control(server))
        loop.stop_on(signal.SIGTERM, signal.SIGINT, call=lambda: setattr(loop, "stopping", True))
        if options.parent is not None:
            _linux.end_with_parent(options.parent, signal.SIGTERM)
        if options.announce:
            # In one piece: who has read the first line may close the pipe.
            sys.stdout.write("".join(f"{uri}\n" for uri in server.uris))
            sys.stdout.flush()
        loop.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it is ending already, and must end in order
        if not server.departed:
            server.close()
    return 0


def _prepare() -> None:
    prepare()
    gc.disable()  # nothing on the data path makes cycles; pauses would be seen as latency


def preload() -> None:
    """Load what workers use, and keep it out of their collector, before forking any of them."""
    import numpy  # noqa: F401 - shared here, but not loaded by a lone worker before it needs it

    import fisk_core.dataplane.departure
    import fisk_core.dataplane.succession
    import fisk_core.pools.file  # noqa: F401 - the driver most pools have

    gc.collect()
    gc.freeze()


def to_json(spec: DiskSpec, options: ServeOptions) -> str:
    """Give what :func:`from_json` reads in the worker's process."""
    return json.dumps({"spec": asdict(spec), "options": asdict(options)})


def from_json(text: str) -> tuple[DiskSpec, ServeOptions]:
    fields = json.loads(text)
    return DiskSpec(**fields["spec"]), ServeOptions.from_fields(fields["options"])


def main() -> int:
    """Entry of ``python -m fisk_core.dataplane FD [REPORT_FD]``: read what to serve from FD and serve it.

    What goes wrong is written to REPORT_FD, for a parent that raises it, or to standard error.
    """
    with os.fdopen(int(sys.argv[1])) as source:
        spec, options = from_json(source.read())
    if len(sys.argv) < 3:
        return serve(spec, options, sys.stderr)
    with os.fdopen(int(sys.argv[2]), "w") as report:
        return serve(spec, options, report)


def serve(spec: DiskSpec, options: ServeOptions, report: TextIO) -> int:
    """Serve, and say to ``report`` in one line what went wrong; gives the exit status."""
    return told(report, lambda: run(spec, options))
