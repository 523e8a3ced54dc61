# SPDX-License-Identifier: Apache-2.0
"""What is done while it is recorded: random things to Fisks, each noted before and after.

One thing at a time, but for the requests that a client has under way together; so what is in doubt at a cut
is one thing, and everything before it is promised.
"""

import json
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.disk import Disk
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.zygote import Zygote
from fisk_core.engine import Engine
from fisk_core.model import BLOCK_SIZE, PAGE_SIZE
from proof.power.promises import filling
from proof.power.records import NOTES, Note

HOME, OTHER_HOME = "h", "o"
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes: of blocks, of pages, of most Fisks (which may grow by a page)."""

    block_size: int
    page_size: int
    size: int


TINY = Shape(512, 2048, 96 << 10)
SMALL = Shape(4096, 16384, 640 << 10)
USUAL = Shape(BLOCK_SIZE, PAGE_SIZE, 640 << 10)


@dataclass(slots=True)
class Known:
    """A Fisk as the script knows it."""

    size: int
    frozen: bool
    pool: str
    blocks: int


class Notes:
    """Numbers what is done and notes it where it is recorded."""

    def __init__(self, root: Path) -> None:
        self._fd = os.open(root / NOTES, os.O_WRONLY | os.O_CREAT, 0o600)
        self._count = 0

    def begin(self, do: str, **fields: Any) -> int:
        self._count += 1
        self._put({"n": self._count, "do": do, **fields})
        return self._count

    def end(self, number: int, **fields: Any) -> None:
        self._put({"n": number, **fields})

    @contextmanager
    def doing(self, do: str, **fields: Any) -> Iterator[None]:
        """Note the beginning, and the end unless it failed."""
        number = self.begin(do, **fields)
        yield
        self.end(number)

    def repeat(self, note: Note) -> None:
        """Note what was noted before."""
        os.pwrite(self._fd, note.text.encode(), 0)  # within a page: it arrives in one piece

    def _put(self, note: dict[str, Any]) -> None:
        self.repeat(Note(json.dumps(note)))

    def close(self) -> None:
        os.close(self._fd)


class Session:
    """A Fisk being written: through a disk of this process, or through a client of a worker."""

    def __init__(self, script: "Script", name: str, disk: Disk | NbdClient) -> None:
        self.script, self.name, self.disk = script, name, disk

    @property
    def size(self) -> int:
        return self.script.known[self.name].size

    def some_range(self) -> tuple[int, int]:
        """Give (offset, length): often whole blocks, often at a border, often where was written before."""
        pick, block = self.script.random, self.script.shape.block_size
        hot = pick.choice((0, self.script.shape.page_size, self.size - block, pick.randrange(self.size)))
        if pick.random() < 0.6:
            offset = max(0, hot // block * block + pick.randint(-3, 3) * block)
            length = block * pick.choice((1, 1, 1, 2, 3, 5, 9))
        else:
            offset, length = (
                max(0, hot + pick.randint(-700, 700)),
                pick.choice((1, 100, 512, 700, 3 * block + 7)),
            )
        offset = min(offset, self.size - 1)
        return offset, min(length, self.size - offset)

    def write(self) -> None:
        offset, length = self.some_range()
        stamp, fua = self.script.stamp(), self.script.random.random() < 0.1
        number = self.script.notes.begin("write", fisk=self.name, at=offset, length=length, stamp=stamp)
        if isinstance(self.disk, NbdClient):
            self.disk.write(offset, filling(stamp, length), fua=fua)
        else:
            self.disk.write(offset, filling(stamp, length))
            fua = False
        self.script.notes.end(number, fua=fua)

    def write_many(self) -> None:
        """Several blocks under way at once."""
        if not isinstance(self.disk, NbdClient):
            return self.write()
        pick, block = self.script.random, self.script.shape.block_size
        blocks = sorted({pick.randrange(self.size // block) for _ in range(pick.randint(2, 6))})
        stamps = [self.script.stamp() for _ in blocks]
        numbers = [
            self.script.notes.begin("write", fisk=self.name, at=each * block, length=block, stamp=stamp)
            for each, stamp in zip(blocks, stamps, strict=True)
        ]
        self.disk.write_many(
            (each * block, filling(stamp, block)) for each, stamp in zip(blocks, stamps, strict=True)
        )
        for number in numbers:
            self.script.notes.end(number)

    def zero(self) -> None:
        offset, length = self.some_range()
        allocate = self.script.random.random() < 0.5
        with self.script.notes.doing("write", fisk=self.name, at=offset, length=length, stamp=0):
            if isinstance(self.disk, NbdClient):
                self.disk.zero(offset, length, no_hole=allocate)
            else:
                self.disk.write_zeroes(offset, length, allocate=allocate)

    def trim(self) -> None:
        offset, length = self.some_range()
        with self.script.notes.doing("trim", fisk=self.name, at=offset, length=length):
            self.disk.trim(offset, length)

    def flush(self) -> None:
        with self.script.notes.doing("flush", fisk=self.name):
            self.disk.flush()

    def some(self, count: int) -> None:
        """Do so many things."""
        kinds = (self.write, self.write_many, self.zero, self.trim, self.flush)
        for do in self.script.random.choices(kinds, (8, 2, 1, 1, 3), k=count):
            do()


@dataclass(slots=True)
class Script:
    """Does things to the Fisks of a home below ``root``, all chosen by ``random``."""

    root: Path
    notes: Notes
    random: random.Random
    shape: Shape
    engine: Engine
    outside: Path
    """a directory that is not recorded"""
    zygote: Zygote | None = None
    known: dict[str, Known] = field(default_factory=dict)
    pools: list[str] = field(default_factory=lambda: ["default"])
    _count: int = 0

    def stamp(self) -> int:
        self._count += 1
        return self._count

    def new_name(self, kind: str) -> str:
        return f"{kind}{self.stamp()}"

    # Choosing

    def live(self) -> list[str]:
        return [name for name, known in self.known.items() if not known.frozen]

    def some_live(self) -> str:
        return self.random.choice(self.live() or [self.create()])

    def _derived(self, source: str, name: str, *, frozen: bool, size: int = 0) -> None:
        known = self.known[source]
        self.known[name] = Known(size or known.size, frozen, known.pool, known.blocks)

    # Things to do

    def create(self) -> str:
        name, pool = self.new_name("v"), self.random.choice(self.pools)
        size = self.shape.size + self.random.choice((0, 0, _SECTOR, self.shape.page_size))
        block_size = self.shape.block_size
        with self.notes.doing("create", fisk=name, size=size, block_size=block_size):
            self.engine.create(name, size, pool=pool, block_size=block_size, page_size=self.shape.page_size)
        self.known[name] = Known(size, False, pool, block_size)
        return name

    def write(self) -> None:
        """Write in this process; closing is a flush."""
        name = self.some_live()
        with self.engine.open_disk(name, writable=True) as disk:
            Session(self, name, disk).some(self.random.randint(3, 12))
            number = self.notes.begin("flush", fisk=name)
        self.notes.end(number)

    def snapshot(self) -> None:
        source, name = self.random.choice(list(self.known)), self.new_name("s")
        with self.notes.doing("derive", pairs=[(source, name)]):
            self.engine.snapshot(source, name)
        self._derived(source, name, frozen=True)

    def clone(self) -> None:
        source, name = self.random.choice(list(self.known)), self.new_name("c")
        more = self.random.choice((0, 0, _SECTOR, self.shape.page_size))
        size = self.known[source].size + more if more else None
        with self.notes.doing("derive", pairs=[(source, name)], size=size):
            self.engine.clone(source, name, size=size)
        self._derived(source, name, frozen=False, size=size or 0)

    def group(self) -> None:
        names = self.live()
        if len(names) < 2:
            return self.snapshot()
        self._group(self.random.sample(names, 2))

    def _group(self, sources: Sequence[str]) -> None:
        pairs = [(source, self.new_name("g")) for source in sources]
        with self.notes.doing("derive", pairs=pairs):
            self.engine.group_snapshot(pairs)
        for source, name in pairs:
            self._derived(source, name, frozen=True)

    def delete(self) -> None:
        if len(self.known) < 3:
            self.create()
            return
        names = self.random.sample(list(self.known), self.random.choice((1, 1, 2)))
        with self.notes.doing("delete", fisks=names):
            self.engine.delete(*names)
        for name in names:
            del self.known[name]

    def rename(self) -> None:
        old, new = self.random.choice(list(self.known)), self.new_name("r")
        with self.notes.doing("rename", fisk=old, to=new):
            self.engine.set(old, name=new)
        self.known[new] = self.known.pop(old)

    def resize(self) -> None:
        name = self.some_live()
        known = self.known[name]
        size = known.size + self.random.choice((-700, -_SECTOR, -known.size // 2, 1000, self.shape.page_size))
        size = max(_SECTOR, size // _SECTOR * _SECTOR)
        with self.notes.doing("resize", fisk=name, size=size):
            self.engine.resize(name, size, shrink=True)
        known.size = size

    def revert(self) -> None:
        found = self._pair_to_revert(self.some_live())
        if found is None:
            return self.snapshot()
        name, to = found
        with self.notes.doing("revert", fisk=name, to=to):
            self.engine.revert(name, to)
        self.known[name].size = self.known[to].size

    def _pair_to_revert(self, name: str) -> tuple[str, str] | None:
        known = self.known[name]
        fitting = [
            each
            for each, other in self.known.items()
            if each != name and (other.pool, other.blocks) == (known.pool, known.blocks) and other.frozen
        ]
        return (name, self.random.choice(fitting)) if fitting else None

    def import_image(self) -> None:
        name, stamp = self.new_name("i"), self.stamp()
        size = self.shape.size // 2
        parts = [(0, 3000, stamp), (size // 2, 5000, stamp), (size - 700, 700, stamp)]
        content = bytearray(size)
        for offset, length, each in parts:
            content[offset : offset + length] = filling(each, length)
        with tempfile.NamedTemporaryFile(dir=self.outside) as file:
            file.write(content)
            file.flush()
            block_size = self.shape.block_size
            with self.notes.doing("import", fisk=name, size=size, block_size=block_size, parts=parts):
                self.engine.import_image(
                    Path(file.name),
                    name,
                    format="raw",
                    block_size=block_size,
                    page_size=self.shape.page_size,
                )
        self.known[name] = Known(size, True, "default", block_size)

    def tidy(self) -> None:
        with self.notes.doing("nothing"):
            self.engine.settle()
            self.engine.collect()

    def add_pool(self) -> None:
        name = self.new_name("p")
        with self.notes.doing("pool", name=name):
            self.engine.create_pool(name, options={"checksum": self.random.choice(("none", "crc32"))})
        self.pools.append(name)

    def move(self) -> None:
        name = self.random.choice(list(self.known))
        others = [each for each in self.pools if each != self.known[name].pool]
        if not others:
            return self.add_pool()
        pool = self.random.choice(others)
        with self.notes.doing("nothing"):
            self.engine.move(name, pool)
        self.known[name].pool = pool

    # Served

    def serve(self) -> None:
        """Serve a Fisk or two from worker processes and do things meanwhile."""
        live = self.live() or [self.create()]
        names = self.random.sample(live, min(len(live), self.random.choice((1, 2))))
        with ExitStack() as stack:
            sessions = [stack.enter_context(self._served(name)) for name in names]
            for _ in range(self.random.randint(2, 5)):
                for session in sessions:
                    session.some(self.random.randint(2, 7))
                self._operate(sessions)

    @contextmanager
    def _served(self, name: str) -> Iterator[Session]:
        assert self.zygote is not None
        fisk = self.engine.get(name)
        options = ServeOptions(
            unix=str(self.engine.home.socket(fisk.id)), control=str(self.engine.home.control(fisk.id))
        )
        with self.engine.acquire(name, True) as lock:
            pid, [uri] = self.zygote.spawn(self.engine.disk_spec(fisk, False), options, lock.fd)
        try:
            with NbdClient.connect(uri) as client:
                session = Session(self, name, client)
                yield session
            number = self.notes.begin("flush", fisk=name)
        finally:
            os.kill(pid, signal.SIGTERM)
            status = self.zygote.wait(pid)
        assert status == 0, f"the worker of {name} ended with {status}"
        self.notes.end(number)

    def _operate(self, sessions: Sequence[Session]) -> None:
        """Do something to a Fisk that is being served."""
        session = self.random.choice(sessions)
        kinds: list[Callable[[Session], None]] = [
            self._snapshot_served,
            self._clone_served,
            self._grow_served,
            self._shrink_served,
            self._revert_served,
        ]
        if len(sessions) > 1 and self.random.random() < 0.5:
            self._group([each.name for each in sessions])
        else:
            self.random.choice(kinds)(session)

    def _snapshot_served(self, session: Session) -> None:
        name = self.new_name("s")
        with self.notes.doing("derive", pairs=[(session.name, name)]):
            self.engine.snapshot(session.name, name)
        self._derived(session.name, name, frozen=True)

    def _clone_served(self, session: Session) -> None:
        name = self.new_name("c")
        with self.notes.doing("derive", pairs=[(session.name, name)]):
            self.engine.clone(session.name, name)
        self._derived(session.name, name, frozen=False)

    def _grow_served(self, session: Session) -> None:
        self._resize_served(session, session.size + self.shape.page_size)

    def _shrink_served(self, session: Session) -> None:
        block = self.shape.block_size
        self._resize_served(session, max(block, (session.size - 2 * block) // block * block))

    def _resize_served(self, session: Session, size: int) -> None:
        with self.notes.doing("resize", fisk=session.name, size=size):
            self.engine.resize(session.name, size, shrink=True)
        self.known[session.name].size = size
        self._reconnect(session)

    def _revert_served(self, session: Session) -> None:
        found = self._pair_to_revert(session.name)
        if found is None:
            return self._snapshot_served(session)
        name, to = found
        with self.notes.doing("revert", fisk=name, to=to):
            self.engine.revert(name, to)
        self.known[name].size = self.known[to].size
        self._reconnect(session)

    def _reconnect(self, session: Session) -> None:
        """A client learns the size when it connects."""
        assert isinstance(session.disk, NbdClient)
        session.disk.close()
        fisk = self.engine.get(session.name)
        session.disk = NbdClient.connect(str(self.engine.home.socket(fisk.id)))
