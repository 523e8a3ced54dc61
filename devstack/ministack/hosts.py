# SPDX-License-Identifier: Apache-2.0
"""The compute hosts of a cloud: what each of them has of its own, though they are one machine.

The first is the machine as it is.  Any other is played: its daemons run in mount and UTS namespaces, where
they find their own directories at the paths all hosts of a cloud have in common, and another node name.
libvirt and Nova tell hosts apart by that name, Nova by an address, too.  All are on the loopback network, and
use the same ports.
"""

import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from devstack.ministack.place import Place


@dataclass(frozen=True)
class ComputeHost:
    """One of the hosts, counted from 1."""

    place: Place
    number: int

    @property
    def name(self) -> str:
        """What Nova, and Fisk, call it."""
        return f"ministack{self.suffix}"

    @property
    def suffix(self) -> str:
        """What the names of its daemons and files end with."""
        return f"-{self.number}" if self.number > 1 else ""

    @property
    def address(self) -> str:
        """Where its daemons listen, and guests that come over arrive: libvirt takes no 127.0.0.1 for that."""
        return f"127.0.1.{self.number}" if self.place.computes > 1 else "127.0.0.1"

    @property
    def data(self) -> Path:
        """What is its own.  A short name: sockets lie below."""
        return self.place.data / str(self.number) if self.number > 1 else self.place.data

    @property
    def socket(self) -> Path:
        """Where libvirt answers, found by the address: how another host's libvirt reaches this one."""
        return self.place.run / f"libvirt-{self.address}.sock"

    @cached_property
    def uuid(self) -> str:
        """What its libvirtd says it is, which would be the machine's own; made once."""
        path = self.data / "libvirt.uuid"
        if not path.exists():
            path.write_text(str(uuid.uuid4()))
        return path.read_text()

    def make(self) -> None:
        """Create the directories daemons expect to be there."""
        instances = self.data / "nova" / "instances"  # moving a server there needs it
        for path in (self.data, *self._covers(), *self._covers().values(), instances):
            path.mkdir(parents=True, exist_ok=True)

    def command(self, words: Sequence[str | Path], mounts: Mapping[Path, Path] | None = None) -> list[str]:
        """Give the command that runs ``words`` on this host.

        ``mounts`` are directories of its own and what they cover, beside those that every program there has.
        Mounts that the machine makes later are seen, but nobody sees those made there.
        """
        covers = {**self._covers(), **(mounts or {})}
        program = [str(word) for word in words]
        if not covers:
            return program
        steps = [["mount", "--bind", str(own), str(covered)] for own, covered in covers.items()]
        if self.number > 1:
            steps.append(["hostname", self.name])
        script = " && ".join(shlex.join(step) for step in [*steps, ["exec", *program]])
        return ["unshare", "--mount", "--uts", "--propagation", "slave", "sh", "-c", script]

    def _covers(self) -> dict[Path, Path]:
        """Give directories of its own and what they cover: state of Nova, and locks of its programs."""
        if self.number == 1:
            return {}
        common = (Path("nova"), Path("lock") / "nova")
        return {self.data / name: self.place.data / name for name in common}


def hosts_of(place: Place) -> list[ComputeHost]:
    """Give all hosts of a place, the first of which runs everything else, too."""
    return [ComputeHost(place, number) for number in range(1, place.computes + 1)]
