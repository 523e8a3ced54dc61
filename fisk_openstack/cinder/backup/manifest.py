# SPDX-License-Identifier: Apache-2.0
"""What a backup in a directory is: which chunks it is made of, and what Cinder wants to know at a restore."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import zstandard

from fisk_core.errors import Corrupt, Unsupported
from fisk_core.model import Change, Extent
from fisk_openstack.cinder.backup.chunks import SIZE, Chunks, durably, named, sync
from fisk_openstack.cinder.backup.source import Source

FORMAT = "fisk-backup"
VERSION = 1
SUFFIX = ".json.zst"
_LARGEST = 4 << 30  # a manifest of the largest Fisk there may be has a third of that


@dataclass(frozen=True, slots=True)
class Manifest:
    """``chunks`` has the name of each chunk in order, None for one of zeros; ``size`` in bytes."""

    backup: str
    volume: str
    size: int
    chunks: list[str | None]
    metadata: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    chunk_size: int = SIZE
    format: str = FORMAT
    version: int = VERSION

    def save(self, path: Path) -> None:
        """Make the backup be there, durably; raises NoSpace, PoolError."""
        data = json.dumps(asdict(self)).encode()
        with named("write", path):
            durably(path, zstandard.ZstdCompressor(write_checksum=True).compress(data))
        sync(path.parent)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a manifest; raises NotFound, Corrupt, Unsupported."""
        with named("read", path):
            packed = path.read_bytes()
        try:
            found = json.loads(zstandard.ZstdDecompressor().decompress(packed, max_output_size=_LARGEST))
            if (found["format"], found["version"], found["chunk_size"]) != (FORMAT, VERSION, SIZE):
                raise Unsupported(f"{path} is of a version we do not know")
            return cls(**found)
        except (zstandard.ZstdError, ValueError, KeyError, TypeError) as problem:
            raise Corrupt(f"{path} is no manifest: {problem}") from problem

    @property
    def needed(self) -> frozenset[str]:
        """The chunks it cannot do without."""
        return frozenset(each for each in self.chunks if each is not None)


class ManifestSource(Source):
    """A backup to be read back."""

    def __init__(self, manifest: Manifest, chunks: Chunks) -> None:
        self._manifest, self._chunks = manifest, chunks
        self.size = manifest.size

    def extents(self) -> Iterator[Extent]:
        for index, name in enumerate(self._manifest.chunks):
            offset = index * SIZE
            length = min(SIZE, self.size - offset)
            yield Extent(offset, length, Change.ZERO if name is None else Change.DATA)

    def read(self, offset: int, length: int) -> bytes:
        """Give a part of one chunk."""
        name = self._manifest.chunks[offset // SIZE]
        if name is None:
            return bytes(length)
        return self._chunks.get(name)[offset % SIZE :][:length]

    def close(self) -> None:
        """There is nothing open."""
