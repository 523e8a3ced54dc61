# SPDX-License-Identifier: Apache-2.0
"""The options of a file pool, checked."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from fisk_core.errors import InvalidValue

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_CHECKSUMS = ("none", "crc32")
_CHANGEABLE = ("prealloc", "classes")
"""The others are decided for good: ``path`` is where the pool is, ``checksum`` what its layers have."""


class FileOptions(NamedTuple):
    """``path`` is absolute; ``checksum`` and ``classes`` are only recorded here, the engine acts on them."""

    path: str
    checksum: str
    prealloc: bool
    classes: str

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Check options as a person or the catalog gives them; raises InvalidValue."""
        unknown = sorted(given.keys() - set(cls._fields))
        if unknown:
            raise InvalidValue(f"a file pool has no option {unknown[0]!r} (it has: {', '.join(cls._fields)})")
        checksum = given.get("checksum", "none")
        if checksum not in _CHECKSUMS:
            raise InvalidValue(f"checksum {checksum!r} is not one of {', '.join(_CHECKSUMS)}")
        prealloc = _boolean("prealloc", given.get("prealloc", True))
        return cls(_path(given.get("path")), checksum, prealloc, _classes(given.get("classes", "")))

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Give the options with some others; raises InvalidValue, also for one that cannot be changed."""
        changed = self.parse({**self._asdict(), **changes})
        for name in sorted(changes):
            if name not in _CHANGEABLE:
                raise InvalidValue(
                    f"the option {name!r} of a file pool is decided when it is made; "
                    f"{' and '.join(_CHANGEABLE)} can be changed"
                )
        return changed

    def recorded(self) -> dict[str, Any]:
        """Give what the header keeps: all but the path, since a pool may be mounted elsewhere."""
        return {"checksum": self.checksum, "prealloc": self.prealloc, "classes": self.classes}


def _path(value: object) -> str:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InvalidValue("a file pool needs the option path, a directory")
    path = os.fspath(value)
    if not isinstance(path, str) or "\0" in path:
        raise InvalidValue(f"the path {path!r} is not text")
    return os.path.abspath(path)


def _classes(value: object) -> str:
    """Give a list like ``scratch,background`` in its one form."""
    names = [name.strip() for name in str(value).split(",") if name.strip()]
    if not names:
        return ""
    from fisk_core.model import Class  # not loaded by workers, most of whose pools name none

    for name in names:
        if name not in list(Class):
            raise InvalidValue(f"{name!r} is not a class (there are: {', '.join(Class)})")
    return ",".join(dict.fromkeys(names))


def _boolean(name: str, value: object) -> bool:
    text = str(value).lower()
    if text not in _YES + _NO:
        raise InvalidValue(f"option {name} is {value!r}; write true or false")
    return text in _YES
