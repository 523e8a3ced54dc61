# SPDX-License-Identifier: Apache-2.0
"""``fisk job …``: long work of the daemon."""

import argparse
from typing import TYPE_CHECKING, Any

from fisk_core.cli import arguments, progress
from fisk_core.cli.base import FiskLister, FiskShow
from fisk_core.cli.by_id import ForEach, ShowById
from fisk_core.cli.columns import Size, Text, Time, labels

if TYPE_CHECKING:
    from fisk_core.client import RemoteEngine
    from fisk_core.model import Job


_COUNTED = ("check", "rescan")
"""kinds that say how many things they looked at; the others say bytes"""


def _amount(job: "Job", number: int | None) -> Any:
    if number is None:
        return Text(None)
    return number if job.kind in _COUNTED else Size(number)


def _details(job: "Job") -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state.value,
        "host": job.host,
        "arguments": labels(job.arguments),
        "done": _amount(job, job.done),
        "total": _amount(job, job.total),
        "result": labels(job.result) if isinstance(job.result, dict) else job.result,
        "error": Text(str(job.error.get("detail")) if job.error else None),
        "created_at": Time(job.created_at.isoformat()),
        "updated_at": Time(job.updated_at.isoformat()),
    }


class List(FiskLister):
    """List the jobs of all hosts; those that are over are kept for a week."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        states = ("queued", "running", "done", "failed", "cancelled")
        parser.add_argument("--state", choices=states, help="Only these.")
        parser.add_argument("--kind", metavar="KIND", help="Only these: import, download, scrub …")
        parser.add_argument("--host", metavar="HOST", help="Only those of this host.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with self.daemon() as engine:
            found = engine.jobs.list(state=parsed_args.state, kind=parsed_args.kind, host=parsed_args.host)
        rows = [
            (each.id, each.kind, each.state.value, each.host, _amount(each, each.done),
             _amount(each, each.total), Time(each.created_at.isoformat()))
            for each in found
        ]  # fmt: skip
        return ("ID", "Kind", "State", "Host", "Done", "Total", "Created At"), rows


class Show(ShowById):
    """Show a job."""

    def find(self, engine: "RemoteEngine", id: str) -> dict[str, Any]:
        return _details(engine.jobs.get(id))


class Cancel(ForEach):
    """Have jobs end and undo what they began; those that are over stay as they are."""

    def act(self, engine: "RemoteEngine", id: str) -> None:
        engine.jobs.cancel(id)


class Wait(FiskShow):
    """Wait for a job; one that failed ends this command as it would have ended the command itself."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", metavar="ID")
        parser.add_argument("--timeout", metavar="TIME", help="How long at most, for example 10m.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        from fisk_core.client.jobs import result_of
        from fisk_core.errors import Unavailable

        quiet = not self.app.options.verbose_level
        timeout = arguments.optional_duration(parsed_args.timeout)
        with self.daemon() as engine:
            job = engine.jobs.get(parsed_args.id)
            counts = job.kind in _COUNTED
            with progress.shown(self.app.stderr, job.kind, quiet=quiet, counts=counts) as report:
                job = engine.jobs.wait(job.id, timeout, report)
        if not job.over:
            raise Unavailable(f"the {job.kind} is still {job.state.value} after {parsed_args.timeout}")
        result_of(job)
        return self.fields(_details(job))
