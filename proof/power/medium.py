# SPDX-License-Identifier: Apache-2.0
"""What a medium holds: what was made durable, and what may or may not have reached it besides.

The model is stricter than any file system we know of, and what POSIX promises at least:

- fsync or fdatasync of a file makes its content and size durable, and nothing else;
- a name (a new file, a removal, a rename, a link) is durable after fsync of its *directory*, not before;
- what was not made durable may be there in part: any of the writes without those before them, any of the
  names; a rename inside a directory is there or not as a whole;
- a write may be torn at units of 512 or 4096 bytes.  A unit is written as a whole as the page cache had it,
  so it holds one of the contents that it had, never a mixture.

The index that SQLite shares among processes (``-shm``) is left out: it is made anew after a boot.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from proof.power.records import NOTES, ROOT, Name, Note, Record, Sync, Truncate, Write, Zero

PAGE = 4096
_NOTHING = bytes(PAGE)
Pages = dict[int, bytes]
"""page → its bytes; one that is missing is a hole"""


@dataclass(slots=True)
class Content:
    """The bytes of a file; replaced as a whole where it is changed, so it may be shared."""

    pages: Pages = field(default_factory=dict)
    size: int = 0

    def copy(self) -> "Content":
        return Content(dict(self.pages), self.size)

    def put(self, offset: int, data: bytes) -> None:
        """Write; the size grows where it must."""
        end = offset + len(data)
        for number in range(offset // PAGE, -(-end // PAGE)):
            start = number * PAGE
            first, last = max(offset, start), min(end, start + PAGE)
            old = self.pages.get(number, _NOTHING)
            part = data[first - offset : last - offset]
            self.pages[number] = old[: first - start] + part + old[last - start :]
        self.size = max(self.size, end)

    def zero(self, offset: int, length: int) -> None:
        end = offset + length
        for number in [each for each in self.pages if offset < (each + 1) * PAGE and each * PAGE < end]:
            start = number * PAGE
            first, last = max(offset, start) - start, min(end, start + PAGE) - start
            if last - first == PAGE:
                del self.pages[number]
            else:
                old = self.pages[number]
                self.pages[number] = old[:first] + bytes(last - first) + old[last:]

    def truncate(self, size: int) -> None:
        if size < self.size:
            self.zero(size, self.size - size + PAGE)
        self.size = size

    def write_to(self, fd: int) -> None:
        """Make an empty file this one."""
        os.ftruncate(fd, self.size)
        run: list[bytes] = []
        following = -1
        for number in sorted(self.pages):
            if number != following and run:
                self._write_run(fd, following, run)
                run = []
            run.append(self.pages[number])
            following = number + 1
        if run:
            self._write_run(fd, following, run)

    def _write_run(self, fd: int, end: int, run: list[bytes]) -> None:
        """Write pages that lie before page ``end``, as far as the file goes."""
        start = (end - len(run)) * PAGE
        os.pwrite(fd, b"".join(run)[: max(0, self.size - start)], start)


@dataclass(eq=False, slots=True)
class Change:
    """A change of a file that is not durable: ``after`` has the pages it touched as they were then."""

    file: int
    record: Write | Zero | Truncate
    after: Pages

    @property
    def span(self) -> tuple[int, int]:
        """The bytes it is about."""
        record = self.record
        if isinstance(record, Write):
            return record.offset, record.offset + len(record.data)
        if isinstance(record, Zero):
            return record.offset, record.offset + record.length
        return record.size, record.size

    @property
    def grows(self) -> bool:
        """Whether the file reaches to its end at least."""
        return isinstance(self.record, Write) or (isinstance(self.record, Zero) and self.record.grows)

    def units(self, unit: int) -> range:
        """The units it touches."""
        start, end = self.span
        return range(start // unit, -(-end // unit))

    def apply(self, content: Content, unit: int, keep: Callable[[int], bool] | None = None) -> None:
        """Have it reach the medium, or those of its units that ``keep`` says yes to."""
        record = self.record
        if isinstance(record, Truncate):
            content.truncate(record.size)
            return
        assert isinstance(record, Write | Zero)
        if isinstance(record, Zero) and keep is None:
            content.zero(record.offset, record.length)
        else:
            self._put(content, unit, keep)
        if keep is None and self.grows:
            content.size = max(content.size, self.span[1])

    def _put(self, content: Content, unit: int, keep: Callable[[int], bool] | None) -> None:
        size, (_, end) = content.size, self.span
        for page, numbers in groupby(self.units(unit), lambda number: number * unit // PAGE):
            kept = [number * unit % PAGE for number in numbers if keep is None or keep(number)]
            data = self.after.get(page, _NOTHING)
            if len(kept) * unit == PAGE:
                content.pages[page] = data
            elif kept:
                old = bytearray(content.pages.get(page, _NOTHING))
                for at in kept:
                    old[at : at + unit] = data[at : at + unit]
                content.pages[page] = bytes(old)
            if kept and self.grows:
                size = max(size, min(end, page * PAGE + kept[-1] + unit))
        content.size = size


@dataclass(eq=False, slots=True)
class Naming:
    """Names that changed and are not durable; ``left`` are those of them whose directory was not synced."""

    left: list[tuple[int, str, int | None]]


Pending = Change | Naming


@dataclass(slots=True)
class Image:
    """All files of a medium at one moment."""

    files: dict[int, Content]
    names: dict[int, dict[str, int]]
    """directory → names in it"""

    def reachable(self, directory: int = ROOT, path: str = "") -> Iterator[tuple[str, int]]:
        """Give (path, number) of all that has a name, what is above first."""
        for name, number in self.names.get(directory, {}).items():
            yield f"{path}{name}", number
            if number in self.names:
                yield from self.reachable(number, f"{path}{name}/")

    def key(self) -> int:
        """The same number for the same image."""
        return hash(
            tuple((path, *self._key_of(number)) for path, number in sorted(self.reachable()) if path != NOTES)
        )

    def _key_of(self, number: int) -> tuple[int, ...]:
        content = self.files.get(number)
        if content is None:
            return ()
        return content.size, hash(tuple(sorted(content.pages.items())))

    def write_to(self, directory: Path) -> None:
        """Make it real below an empty directory."""
        for path, number in self.reachable():
            if number in self.names:
                os.mkdir(f"{directory}/{path}", 0o700)
            elif path != NOTES:
                fd = os.open(f"{directory}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                self.files[number].write_to(fd)
                os.close(fd)


class Medium:
    """A medium in the course of a recording."""

    def __init__(self) -> None:
        self.durable = Image({}, {ROOT: {}})
        self.pending: list[Pending] = []
        self._now: dict[int, Content] = {}
        self._shared: set[int] = set()
        self._catalog_log: set[int] = set()

    def take(self, record: Record) -> None:
        """Have the next thing happen."""
        match record:
            case Name(changes, makes_directory):
                self._name(changes, makes_directory)
            case Sync(number):
                self._sync(number)
            case Note():
                pass
            case _ if record.file not in self._shared:
                self._change(record)

    def is_left(self, record: Record) -> bool:
        """Whether it makes a difference to what a power loss leaves."""
        return isinstance(record, Name | Note) or record.file not in self._shared

    def is_dull(self, record: Record) -> bool:
        """Whether it is one of the many writes to SQLite's log."""
        return isinstance(record, Write) and record.file in self._catalog_log

    def _name(self, changes: Sequence[tuple[int, str, int | None]], makes_directory: bool) -> None:
        for _, name, number in changes:
            if number is not None and name.endswith("-shm"):
                self._shared.add(number)
            if number is not None and name.endswith("-wal"):
                self._catalog_log.add(number)
            if number is not None and number not in self._now and number not in self.durable.names:
                if makes_directory:
                    self.durable.names[number] = {}
                else:
                    self._now[number] = Content()
                    self.durable.files[number] = Content()
        self.pending.append(Naming(list(changes)))

    def _change(self, record: Write | Zero | Truncate) -> None:
        content = self._now[record.file]
        if isinstance(record, Write):
            content.put(record.offset, record.data)
        elif isinstance(record, Truncate):
            content.truncate(record.size)
        else:
            content.zero(record.offset, record.length)
            if record.grows:
                content.size = max(content.size, record.offset + record.length)
        change = Change(record.file, record, {})
        if not isinstance(record, Truncate):
            touched = (each for each in change.units(PAGE) if each in content.pages)
            change.after.update((each, content.pages[each]) for each in touched)
        self.pending.append(change)

    def _sync(self, number: int) -> None:
        if number in self.durable.names:
            self._sync_directory(number)
        else:
            self.durable.files[number] = self._now[number].copy()
        self.pending = [
            each for each in self.pending if (each.left if isinstance(each, Naming) else each.file != number)
        ]

    def _sync_directory(self, number: int) -> None:
        for each in self.pending:
            if isinstance(each, Naming):
                rename(self.durable.names, [change for change in each.left if change[0] == number])
                each.left = [change for change in each.left if change[0] != number]

    def left(self, kept: Iterable[Pending], unit: int, torn: "Torn | None" = None) -> Image:
        """Give what the medium holds if of all that is pending only ``kept`` reached it, in their order."""
        files, names = dict(self.durable.files), dict(self.durable.names)
        copied: set[int] = set()
        for each in kept:
            if isinstance(each, Naming):
                for directory, _, _ in each.left:
                    names[directory] = dict(names[directory])
                rename(names, each.left)
                continue
            if each.file not in copied:
                copied.add(each.file)
                files[each.file] = files[each.file].copy()
            each.apply(files[each.file], unit, torn.get(each) if torn else None)
        return Image(files, names)


Torn = dict[Change, Callable[[int], bool]]
"""Changes that reached the medium in part: which of their units did"""


def rename(names: dict[int, dict[str, int]], changes: Iterable[tuple[int, str, int | None]]) -> None:
    """Change names."""
    for directory, name, number in changes:
        if number is None:
            names[directory].pop(name, None)
        else:
            names[directory][name] = number
