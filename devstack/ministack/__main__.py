# SPDX-License-Identifier: Apache-2.0
"""A real OpenStack on the loopback interface of this machine."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from devstack.ministack import report
from devstack.ministack.backends import BACKENDS
from devstack.ministack.errors import MinistackError
from devstack.ministack.place import CHECKOUT, Place
from devstack.ministack.stack import Stack
from devstack.ministack.tempest import Tempest


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="ministack", description=__doc__)
    first, where = next(iter(BACKENDS)), CHECKOUT / ".work" / "ministack"
    parser.add_argument("--backend", choices=list(BACKENDS), default=first, help="what blocks are kept on")
    parser.add_argument("--directory", type=Path, default=where, help="where to live")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="start the cloud, or what of it does not run")
    verbs.add_parser("down", help="stop all that was started")
    verbs.add_parser("status", help="say what runs")
    logs = verbs.add_parser("logs", help="print the end of the logs of a service")
    logs.add_argument("service", nargs="?", default="")
    tests = verbs.add_parser("tempest", help="run the tests of the services against it")
    tests.add_argument(
        "wanted", nargs="*", metavar="smoke|all|report|REGEX", help="which ones; all if not said"
    )
    return parser.parse_args(words)


def main() -> int:
    """Do what the command line asks."""
    chosen = arguments()
    place = Place((chosen.directory / chosen.backend).resolve(), chosen.backend)
    stack = Stack(place, lambda text: print(text, flush=True))
    try:
        if chosen.verb == "up":
            started = time.monotonic()
            with place.held():
                stack.up()
            print(f"up in {time.monotonic() - started:.0f} s; now: . {place.directory}/openrc")
        elif chosen.verb == "down":
            with place.held():
                stack.down()
        elif chosen.verb == "status":
            return status(stack)
        elif chosen.verb == "tempest":
            return tests(place, chosen.wanted)
        else:
            logs(place, chosen.service)
    except MinistackError as problem:
        print(f"ministack: {problem}", file=sys.stderr)
        return 1
    return 0


def status(stack: Stack) -> int:
    """Print every service and whether it runs; 1 when one does not."""
    running = set(stack.running())
    for each in stack.everything():
        daemon = stack.daemons.get(each.name)
        print(f"{each.name:20} {'up' if daemon else 'down':5} {daemon.pid if daemon else ''}")
    return 0 if running >= {each.name for each in stack.everything()} else 1


def tests(place: Place, wanted: Sequence[str]) -> int:
    """Run tests, or write into the manual what became of those that were run; 1 when one failed."""
    if list(wanted) == ["report"]:
        report.write(place)
        return 0
    return Tempest(place).run(wanted)


def logs(place: Place, service: str) -> None:
    """Print the last lines of every log whose name begins with ``service``."""
    for path in sorted(place.log.glob(f"{service}*")):
        print(f"==> {path}")
        print("\n".join(path.read_text(errors="replace").splitlines()[-40:]))


if __name__ == "__main__":
    sys.exit(main())
