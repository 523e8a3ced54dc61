# SPDX-License-Identifier: Apache-2.0
"""The iSCSI target daemon of one home directory, with a control socket of its own.

Started when the first target is made, ended with the last one.  Everything is asked of the daemon each time:
what targets it has is known nowhere else.  It gives a target number and a LUN in separate commands, so a
target that exists without its LUN is finished by making it again.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fisk_core import locks
from fisk_core.access.helpers import Helper
from fisk_core.errors import InUse, PoolError

_TURN_SECONDS = 60.0
_CONTROL = "0"
_TARGET = re.compile(r"^Target (\d+): (\S+)$", re.MULTILINE)
_PORTAL = re.compile(r"^Portal: (\S+?),\d+$", re.MULTILINE)


def lacking() -> str | None:
    """Say what this host lacks to be an iSCSI target."""
    for tool in ("tgtd", "tgtadm"):
        if not shutil.which(tool):
            return f"{tool} is not installed (Debian: tgt)"
    return None


@dataclass(frozen=True, slots=True)
class Chap:
    """What an initiator has to know."""

    user: str
    password: str


class Daemon:
    """The daemon whose files are in ``directory``, running or not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.helper = Helper(directory, "tgtd")

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One at a time: who starts the daemon, makes or removes targets, ends it."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locks.acquire(self.directory / "turn.lock", timeout=_TURN_SECONDS):
            yield

    def start(self, address: str, port: int) -> None:
        """Have it run; where it listens is decided by who starts it, ``port`` 0 is any free one."""
        if self.helper.running:
            return
        for path in self.directory.glob("ipc.*"):
            path.unlink()
        portal = f"portal={address}:{port or _free_port(address)}"
        self.helper.start(["tgtd", "-f", "-C", _CONTROL, "--iscsi", portal], self._environment())
        self.helper.wait_until(self._answers)

    def portal(self) -> str:
        """Give ``address:port`` where it listens; raises PoolError."""
        found = _PORTAL.search(self._run("--op", "show", "--mode", "portal"))
        if found is None:
            raise PoolError("tgtd listens nowhere")
        return found[1]

    def targets(self) -> dict[str, int]:
        """Give name → number of the targets."""
        if not self.helper.running:
            return {}
        return {name: int(number) for number, name in _TARGET.findall(self._show())}

    def has_lun(self, name: str, file: Path) -> bool:
        return str(file) in self._described(name)

    def in_use(self, name: str) -> bool:
        """Whether an initiator is logged in."""
        return "I_T nexus: " in self._described(name)

    def add(self, name: str, file: Path, *, read_only: bool, serial: str, chap: Chap | None) -> None:
        """Make a target with one LUN over ``file``, or what is missing of it."""
        numbers = self.targets()
        if name not in numbers:
            number = max(numbers.values(), default=0) + 1
            self._run("--op", "new", "--mode", "target", "--tid", str(number), "-T", name)
            numbers[name] = number
        tid = ("--tid", str(numbers[name]))
        if self.has_lun(name, file):
            return
        self._run("--op", "new", "--mode", "logicalunit", *tid, "--lun", "1", "-b", str(file))
        details = (
            f"vendor_id=FISK,product_id=Fisk,scsi_sn={serial[:8]},scsi_id=fisk-{serial},thin_provisioning=1"
        )
        details += f",readonly={int(read_only)}"
        self._run("--op", "update", "--mode", "logicalunit", *tid, "--lun", "1", "--params", details)
        if chap is not None:
            self._demand(tid, chap)
        # Only now may anybody come in.
        self._run("--op", "bind", "--mode", "target", *tid, "-I", "ALL")

    def remove(self, name: str, *, force: bool) -> None:
        """Remove a target; raises InUse while an initiator is logged in, unless forced."""
        number = self.targets().get(name)
        if number is None:
            return
        if self.in_use(name) and not force:
            raise InUse(f"an initiator is logged in to {name}; log it out, or force")
        arguments = ["--op", "delete", "--mode", "target", "--tid", str(number), "--force"]
        self._run(*arguments)

    def end_unused(self) -> None:
        """End the daemon when it has no target left."""
        if not self.targets():
            if self.helper.running:
                self._run("--op", "delete", "--mode", "system")  # it does not heed SIGTERM
            self.helper.end()
            self.helper.remove()
            for path in self.directory.glob("ipc.*"):
                path.unlink()

    def _demand(self, tid: tuple[str, str], chap: Chap) -> None:
        known = self._run("--op", "show", "--mode", "account")
        if chap.user not in known.split():
            account = ("--user", chap.user, "--password", chap.password)
            self._run("--op", "new", "--mode", "account", *account)
        self._run("--op", "bind", "--mode", "account", *tid, "--user", chap.user)

    def forget(self, user: str) -> None:
        """Remove the account of a target that is gone."""
        if self.helper.running and user in self._run("--op", "show", "--mode", "account").split():
            self._run("--op", "delete", "--mode", "account", "--user", user)

    def _described(self, name: str) -> str:
        """Give what the daemon says of one target, "" if there is none."""
        parts = re.split(r"^(?=Target \d+: )", self._show(), flags=re.MULTILINE)
        return next((part for part in parts if part.partition("\n")[0].endswith(f": {name}")), "")

    def _show(self) -> str:
        return self._run("--op", "show", "--mode", "target") if self.helper.running else ""

    def _answers(self) -> bool:
        try:
            return bool(_PORTAL.search(self._run("--op", "show", "--mode", "portal")))
        except PoolError:
            return False

    def _environment(self) -> dict[str, str]:
        return {"TGT_IPC_SOCKET": str(self.directory / "ipc")}

    def _run(self, *arguments: str) -> str:
        command = ["tgtadm", "-C", _CONTROL, "--lld", "iscsi", *arguments]
        environment = {**os.environ, **self._environment()}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise PoolError(f"tgtadm {' '.join(arguments[:4])}: {done.stderr.strip()}")
        return done.stdout


def _free_port(address: str) -> int:
    """Give a port nobody listens at now; who loses it to another finds the daemon ended, and tries again."""
    with socket.create_server((address, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
