# SPDX-License-Identifier: Apache-2.0
"""``python serve.py MODULE PORT THREADS [WORD ...]``: serve the WSGI application of MODULE on loopback.

The words become the program's command line before MODULE is imported: Cinder reads its configuration from
there.  gunicorn decodes chunked uploads itself, which Glance relies on.
"""

import importlib
import sys
from typing import Any

from gunicorn.app.base import BaseApplication


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn carries no types
    """gunicorn for one module, one process with threads."""

    def __init__(self, module: str, port: int, threads: int) -> None:
        self.module, self.port, self.threads = module, port, threads
        super().__init__()

    def load_config(self) -> None:
        """Say where to listen."""
        self.cfg.set("bind", f"127.0.0.1:{self.port}")
        self.cfg.set("worker_class", "gthread")
        self.cfg.set("threads", self.threads)
        self.cfg.set("timeout", 600)
        self.cfg.set("graceful_timeout", 5)
        self.cfg.set("keepalive", 30)

    def load(self) -> Any:
        """Import the application, in the process that serves it."""
        application = importlib.import_module(self.module).application
        # Neutron asks for attributes that are there only once a first query has joined the models up.
        if "sqlalchemy.orm" in sys.modules:
            sys.modules["sqlalchemy.orm"].configure_mappers()
        return application


if __name__ == "__main__":
    name, listen, count, *rest = sys.argv[1:]
    sys.argv = [name, *rest]
    Server(name, int(listen), int(count)).run()
