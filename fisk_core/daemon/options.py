# SPDX-License-Identifier: Apache-2.0
"""The options of the daemon, in ``fisk.conf`` beside those of the engine."""

from collections.abc import Sequence
from pathlib import Path

from oslo_config import cfg
from oslo_log import log

from fisk_core import __version__
from fisk_core import config as engine_options
from fisk_core.api.limits import Limits
from fisk_core.config import Home
from fisk_core.errors import InvalidValue

_DEFAULT = Limits()
_LEVELS = ["sqlalchemy=WARN", "oslo_policy=WARN", "uvicorn=ERROR", "alembic=WARN", "asyncio=WARN"]


def _number(name: str, default: int, help: str, most: int = 1 << 31) -> cfg.Opt:
    return cfg.IntOpt(name, default=default, min=1, max=most, help=help)


API: Sequence[cfg.Opt] = (
    cfg.StrOpt(
        "socket_group", help="Group that may connect to the unix socket; nobody but the owner if unset."
    ),
    cfg.StrOpt("operator_group", help="Members of this group are operators on the unix socket."),
    cfg.StrOpt("reader_group", help="Members of this group are readers on the unix socket."),
    cfg.StrOpt(
        "listen",
        default="",
        help="Address and port for TCP, such as 127.0.0.1:8474 or [::1]:8474; no TCP if empty. Port 0 takes "
        "one that is free and writes it to run/fiskd.port.",
    ),
    cfg.StrOpt("tls_cert", help="Certificate chain (PEM) for TCP."),
    cfg.StrOpt("tls_key", help="Private key (PEM) for TCP."),
    cfg.BoolOpt(
        "allow_remote",
        default=False,
        help="Allow to listen beyond loopback; needs tls_cert and tls_key.",
    ),
    _number("max_body", _DEFAULT.max_body, "Bytes of a request's body.", 1 << 30),
    _number("max_head", _DEFAULT.max_head, "Bytes of a request's line and headers.", 1 << 20),
    _number("max_page", _DEFAULT.max_page, "Objects in one answer.", 10_000),
    _number("max_requests", _DEFAULT.max_requests, "Requests under way at once."),
    _number("max_streams", _DEFAULT.max_streams, "Event streams at once."),
    _number(
        "max_connections", _DEFAULT.max_connections, "Connections at once, on the socket and on TCP each."
    ),
    _number("max_jobs", _DEFAULT.max_jobs, "Jobs that wait."),
    _number("read_seconds", _DEFAULT.read_seconds, "Seconds a request may take to arrive.", 3600),
    _number("threads", _DEFAULT.threads, "Requests worked on at once; the others wait.", 60),
    _number("stop_seconds", 10, "Seconds requests under way have to end when fiskd stops.", 3600),
)


JOBS: Sequence[cfg.Opt] = (
    _number("concurrency", 2, "Jobs done at once.", 64),
    cfg.ListOpt(
        "directories",
        default=[],
        help="Directories whose files jobs may import, and below which they may write; none if empty.",
    ),
)
POOLS: Sequence[cfg.Opt] = (
    cfg.FloatOpt(
        "high_water",
        default=90.0,
        min=1,
        max=100,
        help="Percent of a pool from which on expendable snapshots are removed.",
    ),
    cfg.FloatOpt("low_water", default=85.0, min=1, max=100, help="Percent down to which they are."),
)


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """Give the daemon's own options, for the program that writes a sample configuration file."""
    return [("api", API), ("jobs", JOBS), ("pools", POOLS)]


def read(home: Home, arguments: Sequence[str] = ()) -> cfg.ConfigOpts:
    """Read ``fisk.conf`` of a home directory, if there is one; raises InvalidValue."""
    conf = cfg.ConfigOpts()
    for group, entries in (*engine_options.list_opts(), *list_opts()):
        conf.register_opts(entries, group=group)
    log.register_options(conf)
    conf.set_default("logging_context_format_string", _format("%(request_id)s"))
    conf.set_default("logging_default_format_string", _format("-"))
    conf.set_default("default_log_levels", _LEVELS)
    files = [str(home.config_file)] if home.config_file.exists() else []
    try:
        conf(
            args=list(arguments),
            project="fisk",
            version=__version__,
            default_config_files=files,
            default_config_dirs=[],
        )
        for group, entries in list_opts():  # a value that makes no sense is noticed when it is read
            for entry in entries:
                conf[group][entry.dest]
    except (cfg.Error, ValueError) as exc:
        raise InvalidValue(f"{home.config_file}: {exc}") from exc
    return conf


def _format(request: str) -> str:
    return f"%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [{request}] %(message)s"


def limits(conf: cfg.ConfigOpts) -> Limits:
    api = conf.api
    return Limits(
        max_body=api.max_body,
        max_head=api.max_head,
        max_page=api.max_page,
        max_requests=api.max_requests,
        max_streams=api.max_streams,
        max_connections=api.max_connections,
        max_jobs=api.max_jobs,
        read_seconds=api.read_seconds,
        threads=api.threads,
    )


def policy_file(home: Home) -> Path:
    """Where the policy of a home directory is, if it has one of its own."""
    return home.path / "policy.yaml"
