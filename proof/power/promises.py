# SPDX-License-Identifier: Apache-2.0
"""What has been promised at each moment of a recording: which Fisks there are, and what they may hold.

A script notes each thing it does twice: before, with all that is needed to know what it changes, and when it
returned.  In between it is *in doubt*: after a power loss it has happened or not, as a whole.  Changes of
blocks are not in doubt but in the histories of the blocks (``proof.oracle``).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proof.oracle import Change, Flush, Oracle

Fisks = dict[str, Oracle | None]
"""name → what it may hold; None: there is no such Fisk"""


def filling(stamp: int, length: int) -> bytes:
    """Give ``length`` bytes that no other stamp gives; stamp 0 is zeros."""
    return (stamp.to_bytes(4, "little") * (length // 4 + 1))[:length]


@dataclass(slots=True)
class Doubt:
    """Something that has happened or not: the Fisks that it is about, before and after."""

    before: Fisks
    after: Fisks


@dataclass(slots=True)
class Promises:
    """What has been promised, from note to note."""

    fisks: dict[str, Oracle] = field(default_factory=dict)
    doubts: dict[int, Doubt] = field(default_factory=dict)
    pools: set[str] = field(default_factory=set)
    home: str = ""
    """the home that is used, in the root of what is recorded; "" before the recording really begins"""
    taken_over: str = ""
    """the pool, in the root, that is being taken over by a home that knows nothing"""
    version: int = 0
    """another one after each note that may make promises stronger"""
    _changes: dict[int, tuple[str, Change]] = field(default_factory=dict)
    _flushes: dict[int, tuple[str, Flush]] = field(default_factory=dict)
    _pools: dict[int, str] = field(default_factory=dict)

    def take(self, text: str) -> None:
        """Have the next note be read."""
        note = json.loads(text)
        if "do" in note:
            _BEGINNINGS[note["do"]](self, note["n"], note)
        else:
            self.version += 1
            self._end(note["n"], note)

    def _end(self, number: int, note: Mapping[str, Any]) -> None:
        if number in self._changes:
            name, change = self._changes.pop(number)
            self.fisks[name].end(change, fua=note.get("fua", False))
        elif number in self._flushes:
            name, flush = self._flushes.pop(number)
            self.fisks[name].end_flush(flush)
        if number in self._pools:
            self.pools.add(self._pools.pop(number))
        if number in self.doubts:
            self.taken_over = ""
            for name, oracle in self.doubts.pop(number).after.items():
                if oracle is None:
                    self.fisks.pop(name, None)
                else:
                    self.fisks[name] = oracle

    # Beginnings

    def _start(self, _: int, note: Mapping[str, Any]) -> None:
        self.home = note["home"]

    def _nothing(self, number: int, note: Mapping[str, Any]) -> None:
        """What changes nothing that anybody sees: settling, collecting, moving."""

    def _pool(self, number: int, note: Mapping[str, Any]) -> None:
        self._pools[number] = note["name"]

    def _write(self, number: int, note: Mapping[str, Any]) -> None:
        data = filling(note["stamp"], note["length"])
        self._changes[number] = note["fisk"], self.fisks[note["fisk"]].write(note["at"], data)

    def _trim(self, number: int, note: Mapping[str, Any]) -> None:
        self._changes[number] = note["fisk"], self.fisks[note["fisk"]].trim(note["at"], note["length"])

    def _flush(self, number: int, note: Mapping[str, Any]) -> None:
        self._flushes[number] = note["fisk"], self.fisks[note["fisk"]].flush()

    def _create(self, number: int, note: Mapping[str, Any]) -> None:
        name = note["fisk"]
        self.doubts[number] = Doubt({name: None}, {name: Oracle(note["size"], note["block_size"])})

    def _import(self, number: int, note: Mapping[str, Any]) -> None:
        """Parts of the image are (offset, length, stamp)."""
        content = bytearray(note["size"])
        for offset, length, stamp in note["parts"]:
            content[offset : offset + length] = filling(stamp, length)
        name = note["fisk"]
        after = Oracle(note["size"], note["block_size"], content)
        self.doubts[number] = Doubt({name: None}, {name: after})

    def _derive(self, number: int, note: Mapping[str, Any]) -> None:
        """Snapshots and clones: pairs of (source, new name), all at once."""
        doubt = Doubt({}, {})
        for source, name in note["pairs"]:
            oracle = self.fisks[source]
            if source not in doubt.before:
                doubt.before[source], doubt.after[source] = oracle, _flushed(oracle)
            doubt.before[name], doubt.after[name] = None, oracle.copy()
            if note.get("size"):
                doubt.after[name].resize(note["size"])  # type: ignore[union-attr]  # it was just set
        self.doubts[number] = doubt

    def _revert(self, number: int, note: Mapping[str, Any]) -> None:
        name, to = note["fisk"], self.fisks[note["to"]]
        self.doubts[number] = Doubt({name: self.fisks[name]}, {name: to.copy()})

    def _resize(self, number: int, note: Mapping[str, Any]) -> None:
        name, size = note["fisk"], note["size"]
        oracle = self.fisks[name]
        after = oracle.twin() if size >= oracle.size else _flushed(oracle)
        after.resize(size)
        self.doubts[number] = Doubt({name: oracle}, {name: after})

    def _delete(self, number: int, note: Mapping[str, Any]) -> None:
        names = note["fisks"]
        before: Fisks = {name: self.fisks[name] for name in names}
        self.doubts[number] = Doubt(before, dict.fromkeys(names))

    def _rename(self, number: int, note: Mapping[str, Any]) -> None:
        old, new = note["fisk"], note["to"]
        oracle = self.fisks[old]
        self.doubts[number] = Doubt({old: oracle, new: None}, {old: None, new: oracle})

    def _rescan(self, number: int, note: Mapping[str, Any]) -> None:
        """A home that knows nothing takes over what the pool of another holds."""
        self.home, self.taken_over = note["home"], note["path"]
        everything: Fisks = {**self.fisks}
        self.pools.clear()
        self._pools[number] = note["pool"]
        self.doubts[number] = Doubt(dict.fromkeys(everything), everything)


def _flushed(oracle: Oracle) -> Oracle:
    """Give the same with all that was acknowledged durable."""
    twin = oracle.twin()
    twin.end_flush(twin.flush())
    return twin


_BEGINNINGS: dict[str, Callable[[Promises, int, Mapping[str, Any]], None]] = {
    "start": Promises._start,
    "nothing": Promises._nothing,
    "pool": Promises._pool,
    "write": Promises._write,
    "trim": Promises._trim,
    "flush": Promises._flush,
    "create": Promises._create,
    "import": Promises._import,
    "derive": Promises._derive,
    "revert": Promises._revert,
    "resize": Promises._resize,
    "delete": Promises._delete,
    "rename": Promises._rename,
    "rescan": Promises._rescan,
}
