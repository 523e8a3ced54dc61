# SPDX-License-Identifier: Apache-2.0
"""The worker process: serves one Fisk until it is told to stop, then makes everything durable.

It holds the Fisk's lock by an inherited descriptor, so that the lock ends when the process does, however
it ends.
"""

import gc
import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from typing import TextIO

from fisk_core.dataplane.control import Control
from fisk_core.dataplane.loop import Loop
from fisk_core.dataplane.server import ServeOptions, Server
from fisk_core.dataplane.spec import DiskSpec, TlsOptions
from fisk_core.errors import FiskError

_SWITCH_INTERVAL = 0.0005
"""seconds a thread may keep the interpreter while the loop wants it (the default would stall requests)"""


def run(spec: DiskSpec, options: ServeOptions) -> int:
    """Serve until stopped; gives the exit status.  The URIs go to standard output when asked for."""
    _prepare()
    loop = Loop()
    server = Server(loop, spec, options)
    try:
        uris = server.listen()
        if options.control:
            server.listen_control(options.control, Control(server, uris).accept)
        loop.stop_on(signal.SIGTERM, signal.SIGINT, call=lambda: setattr(loop, "stopping", True))
        if options.announce:
            print(*uris, sep="\n", flush=True)
        loop.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it is ending already, and must end in order
        server.close()
    return 0


def _prepare() -> None:
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.disable()  # nothing on the data path makes cycles; pauses would be seen as latency
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def preload() -> None:
    """Load what workers use, and keep it out of their collector, before forking any of them."""
    import numpy  # noqa: F401 - shared here, but not loaded by a lone worker before it needs it

    import fisk_core.pools.file  # noqa: F401 - the driver most pools have

    gc.collect()
    gc.freeze()


def to_json(spec: DiskSpec, options: ServeOptions) -> str:
    """Give what :func:`from_json` reads in the worker's process."""
    return json.dumps({"spec": asdict(spec), "options": asdict(options)})


def from_json(text: str) -> tuple[DiskSpec, ServeOptions]:
    fields = json.loads(text)
    options = fields["options"]
    if options["tls"]:
        options["tls"] = TlsOptions(**options["tls"])
    if options["listen"]:
        options["listen"] = tuple(options["listen"])
    return DiskSpec(**fields["spec"]), ServeOptions(**options)


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
    try:
        return run(spec, options)
    except FiskError as exc:
        print(f"fisk: {exc}", file=report)
        return exc.exit_status
