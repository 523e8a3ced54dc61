# SPDX-License-Identifier: Apache-2.0
"""A real OpenStack on the loopback interface of this machine."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from devstack.ministack import furniture, report
from devstack.ministack.backends import BACKENDS
from devstack.ministack.console import say
from devstack.ministack.demo import show
from devstack.ministack.errors import MinistackError
from devstack.ministack.place import CHECKOUT, Place
from devstack.ministack.stack import Stack
from devstack.ministack.tempest import Tempest


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="ministack", description=__doc__)
    first, where = next(iter(BACKENDS)), CHECKOUT / ".work" / "ministack"
    parser.add_argument("--backend", choices=list(BACKENDS), default=first, help="what blocks are kept on")
    parser.add_argument("--computes", type=int, choices=(1, 2), default=1, help="how many compute hosts")
    parser.add_argument("--directory", type=Path, default=where, help="where to live")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="start the cloud, or what of it does not run")
    verbs.add_parser("down", help="stop all that was started")
    verbs.add_parser("status", help="say what runs")
    logs = verbs.add_parser("logs", help="print the end of the logs of a service")
    logs.add_argument("service", nargs="?", default="")
    tests = verbs.add_parser("tempest", help="run the tests of the services against it")
    tests.add_argument(
        "wanted", nargs="*", metavar="smoke|all|hosts|report|REGEX", help="which ones; all if not said"
    )
    for name, what in (("demo", "show it"), ("compare", "measure every back end; writes the record")):
        story = verbs.add_parser(name, help=what)
        story.add_argument("--size", type=int, default=show.SIZE, help="MiB of random bytes in the image")
        story.add_argument(
            "--servers", type=int, default=show.SERVERS, help="how many to make at once; 0: no such step"
        )
    run = verbs.add_parser("exec", help="run a command beside the cloud, with openrc read")
    run.add_argument("command", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(words)
    if chosen.computes > 1 and chosen.backend != first:
        parser.error(f"--computes {chosen.computes} takes the back end {first}")
    return chosen


def main() -> int:
    """Do what the command line asks."""
    chosen = arguments()
    stack = Stack(Place.below(chosen.directory, chosen.backend, chosen.computes), say)
    try:
        return VERBS[chosen.verb](stack, chosen)
    except MinistackError as problem:
        print(f"ministack: {problem}", file=sys.stderr)
        return 1


def up(stack: Stack, chosen: argparse.Namespace) -> int:
    """Start what does not run."""
    started = time.monotonic()
    with stack.place.held():
        stack.up()
    say(f"up in {time.monotonic() - started:.0f} s; now: . {stack.place.directory}/openrc")
    return 0


def down(stack: Stack, chosen: argparse.Namespace) -> int:
    """Stop what runs."""
    with stack.place.held():
        stack.down()
    return 0


@contextmanager
def running(stack: Stack) -> Iterator[None]:
    """Have the cloud up meanwhile; afterwards it is as it was before."""
    before = stack.running()
    with stack.place.held():
        stack.up()
    try:
        yield
    finally:
        if not before:
            down(stack, argparse.Namespace())


def tests(stack: Stack, chosen: argparse.Namespace) -> int:
    """Run tests, or write into the manual what became of those that were run; 1 when one failed."""
    if chosen.wanted == ["report"]:
        report.write(stack.place)
        return 0
    with running(stack):
        return Tempest(stack.place).run(chosen.wanted)


def demo(stack: Stack, chosen: argparse.Namespace) -> int:
    """Show the cloud, which is there afterwards."""
    up(stack, chosen)
    show.demo(stack, chosen.size, chosen.servers)
    say(f"The cloud is up: . {stack.place.directory}/openrc; devstack/ministack/ministack down")
    return 0


def compare(stack: Stack, chosen: argparse.Namespace) -> int:
    """Measure all back ends."""
    places = [Place.below(chosen.directory, name) for name in BACKENDS]
    show.compare(places, say, chosen.size, chosen.servers)
    return 0


def execute(stack: Stack, chosen: argparse.Namespace) -> int:
    """Run a command with the environment of ``openrc``; gives its exit status."""
    more = {
        "PATH": f"{stack.place.venv / 'bin'}:{os.environ['PATH']}",
        "MINISTACK_PLACE": str(stack.place.directory),
        "MINISTACK_COMPUTES": str(stack.place.computes),
    }
    with running(stack):
        return subprocess.call(chosen.command, env={**os.environ, **furniture.rc(stack.place), **more})


def status(stack: Stack, chosen: argparse.Namespace) -> int:
    """Print every service and whether it runs; 1 when one does not."""
    running = set(stack.running())
    for each in stack.everything():
        daemon = stack.daemons.get(each.name)
        print(f"{each.name:20} {'up' if daemon else 'down':5} {daemon.pid if daemon else ''}")
    return 0 if running >= {each.name for each in stack.everything()} else 1


def logs(stack: Stack, chosen: argparse.Namespace) -> int:
    """Print the last lines of every log whose name begins with that of the service."""
    for path in sorted(stack.place.log.glob(f"{chosen.service}*")):
        print(f"==> {path}")
        print("\n".join(path.read_text(errors="replace").splitlines()[-40:]))
    return 0


VERBS = {
    "up": up,
    "down": down,
    "status": status,
    "logs": logs,
    "tempest": tests,
    "demo": demo,
    "compare": compare,
    "exec": execute,
}


if __name__ == "__main__":
    sys.exit(main())
