# SPDX-License-Identifier: Apache-2.0
"""What is shown: an image, volumes, servers, snapshots, clones, and all of it deleted in the wrong order."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from devstack.ministack import image
from devstack.ministack.demo.commands import Commands, Refused
from devstack.ministack.demo.meter import Meter, Step
from devstack.ministack.place import Place
from devstack.ministack.processes import call

FLAVOR = "m1.tiny"
_CLONES = [f"demo-clone-{number}" for number in range(1, 21)]
_MANY = "demo-many"
_READY = {"image": "active", "volume": "available", "snapshot": "available", "server": "active"}
_MIB, _GIB = 1 << 20, 1 << 30
_PIECE = 8 * _MIB
_IDLE = 5


class Story:
    """The steps.  ``lenient``: a step the cloud refuses is noted; else it ends the story."""

    def __init__(
        self, place: Place, say: Callable[[str], None], *, size: int, servers: int, lenient: bool
    ) -> None:
        self.place, self.say = place, say
        self.size, self.servers, self.lenient = size, servers, lenient
        self.meter = Meter()
        self.commands = Commands(place, say)

    def tell(self) -> list[Step]:
        """Run all steps; raises Refused."""
        qcow2, raw = big_image(self.place, self.size)
        self.commands.clean()
        self.meter.idle(_IDLE)
        self.images(qcow2, raw)
        self.volumes()
        self.server("from-image", "server from the image", ["--image", "demo-image"])
        self.server("from-volume", "server from a volume", ["--volume", "demo-volume"])
        self.snapshots()
        self.clones()
        self.many_servers()
        self.delete()
        return self.meter.steps

    def images(self, qcow2: Path, raw: Path) -> None:
        """Upload the image, as raw and as qcow2; raises Refused: without them nothing can be shown."""
        for file, name in ((raw, "demo-raw"), (qcow2, "demo-image")):
            kind = file.suffix[1:]
            words = ["--disk-format", kind, "--container-format", "bare", "--file", str(file), name]
            upload = ["image", "create", *words]
            if not self._make(f"upload-{kind}", f"upload an image ({kind})", "image", [upload]):
                raise Refused(f"no image, no story: {self.meter.steps[-1].refused}")

    def volumes(self) -> None:
        """Make a volume of each."""
        gib = str(-(-(image.SIZE + self.size) // _GIB))
        for kind, source, name in (("raw", "demo-raw", "demo-data"), ("qcow2", "demo-image", "demo-volume")):
            words = ["volume", "create", "--image", source, "--size", gib, name]
            self._make(f"volume-{kind}", f"volume from the image ({kind})", "volume", [words])

    def server(self, name: str, title: str, words: Sequence[str]) -> None:
        """Make a server and look at its console."""
        command = ["server", "create", "--flavor", FLAVOR, "--nic", "none", *words, f"demo-{name}"]
        made = self._make(f"server-{name}", title, "server", [command])
        for own in made:
            self.say(f"  console: {self.commands.console(own, 'boot')}")

    def snapshots(self) -> None:
        """Snapshot what runs, and make a volume and images of it."""
        words = ["volume", "snapshot", "create", "--force", "--volume", "demo-volume", "demo-snapshot"]
        self._make("snapshot", "snapshot of the volume in use", "snapshot", [words])
        words = ["volume", "create", "--snapshot", "demo-snapshot", "demo-restored"]
        self._make("volume-snapshot", "volume from the snapshot", "volume", [words])
        words = ["image", "create", "--volume", "demo-restored", "--disk-format", "raw", "demo-again"]
        self._make("image-volume", "image from that volume", "image", [words])
        words = ["server", "image", "create", "--name", "demo-server", "demo-from-image"]
        self._make("image-server", "image from the running server", "image", [words])

    def clones(self) -> None:
        """Clone a volume many times."""
        commands = [["volume", "create", "--source", "demo-restored", name] for name in _CLONES]
        self._make("clones", f"{len(_CLONES)} clones of the volume", "volume", commands)

    def many_servers(self) -> None:
        """Make many servers of one image at once."""
        if self.servers:
            many = ["--min", str(self.servers), "--max", str(self.servers)]
            words = ["--flavor", FLAVOR, "--nic", "none", "--image", "demo-image", *many, _MANY]
            self._make(
                "servers", f"{self.servers} servers from one image", "server", [["server", "create", *words]]
            )
            names = [server.name for server in self.commands.named("server") if server.name.startswith(_MANY)]
            self._delete("delete-many", f"delete {len(names)} servers", "server", names)

    def delete(self) -> None:
        """Delete it all, what everything else was made of first."""
        self._delete(
            "delete-image", "delete the images the rest was made of", "image", ["demo-raw", "demo-image"]
        )
        self._delete(
            "delete-snapshot", "delete the snapshot others were made of", "volume snapshot", ["demo-snapshot"]
        )
        self._delete("delete-source", "delete the volume that was cloned", "volume", ["demo-restored"])
        self._delete(
            "delete-servers", "delete the servers", "server", ["demo-from-image", "demo-from-volume"]
        )
        rest = ["demo-volume", "demo-data", *_CLONES]
        self._delete("delete-volumes", f"delete the other {len(rest)} volumes", "volume", rest)
        self._delete("delete-images", "delete the other images", "image", ["demo-again", "demo-server"])

    def _make(self, key: str, title: str, kind: str, commands: Sequence[Sequence[str]]) -> list[str]:
        """Run commands and wait until what they make is there; gives the ids."""
        made: list[str] = []

        def act() -> None:
            for words in commands:
                shown = self.commands.run(*words)
                made.append(str(shown.get("image_id") or shown["id"]))
            if kind == "server" and len(made) == 1:
                made[:] = [
                    one.id for one in self.commands.named(kind) if one.name.startswith(commands[0][-1])
                ]
            for own in made:
                self.commands.wait(kind, own, _READY[kind])

        return made if self._step(key, title, act) else []

    def _delete(self, key: str, title: str, kind: str, names: Sequence[str]) -> None:
        def act() -> None:
            self.commands.run(*kind.split(), "delete", *names)
            self.commands.wait_gone(kind, names)

        if names:  # none were made, if that was refused
            self._step(key, title, act)

    def _step(self, key: str, title: str, act: Callable[[], None]) -> bool:
        """Measure one step; gives whether the cloud did it."""
        self.say(title)
        with self.meter.step(key, title) as step:
            try:
                act()
            except Refused as problem:
                if not self.lenient:
                    raise
                step.refused = str(problem)
                self.say(f"  refused: {problem}")
        self.say(f"  {step.seconds:.1f} s, {step.written / _MIB:.1f} MiB written")
        return not step.refused


def big_image(place: Place, size: int) -> tuple[Path, Path]:
    """Give the bootable image with ``size`` random bytes behind it: (qcow2, raw)."""
    qcow2, raw = (place.images / f"demo-{size // _MIB}.{kind}" for kind in ("qcow2", "raw"))
    _, plain = image.build(place.images)
    if not qcow2.exists() or qcow2.stat().st_mtime < plain.stat().st_mtime:
        shutil.copy(plain, raw)
        with raw.open("ab") as file:
            for at in range(0, size, _PIECE):
                file.write(os.urandom(min(_PIECE, size - at)))
        call(["qemu-img", "convert", "-O", "qcow2", raw, qcow2])
    return qcow2, raw
