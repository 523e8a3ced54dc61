# SPDX-License-Identifier: Apache-2.0
"""What callers may say: names, roles, sizes, attributes.  All raise InvalidValue or LimitExceeded."""

import re
import uuid
from collections.abc import Mapping
from datetime import datetime

from fisk_core.catalog.fisks import is_id
from fisk_core.dataplane import classes, qos
from fisk_core.errors import InvalidValue, LimitExceeded
from fisk_core.model import MAX_SIZE
from fisk_core.pools.base import Pool
from fisk_core.units import format_size

_ASKED_FROM = 1 << 40  # every file system worth the name has files of 1 TiB
SECTOR = 512
MAX_KEY = 255
MAX_VALUE = 64 << 10
MAX_BLOCKS_PER_PAGE = 4096
MAX_PAGE_SIZE = 1 << 30
MAX_CLONES = 100_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@=-]{0,254}")
_ROLE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


def name(text: str) -> str:
    """Letters, digits and ``._:+@=-``, at most 255, first a letter or digit, not shaped like an id."""
    if not _NAME.fullmatch(text):
        raise InvalidValue(
            f"'{text}' is not a name: 1 to 255 letters, digits and . _ : + @ = -, first a letter or digit"
        )
    if is_id(text):
        raise InvalidValue(f"'{text}' has the shape of an id and cannot be a name")
    return text


def role(text: str) -> str:
    if not _ROLE.fullmatch(text):
        raise InvalidValue(f"'{text}' is not a role: a word like image, volume or snapshot")
    return text


def size(value: int) -> int:
    """1 sector to 64 TiB, whole sectors of 512 bytes: what disks can be."""
    if value > MAX_SIZE:
        raise LimitExceeded(f"{value} bytes are more than a Fisk may have (64 TiB)")
    if value <= 0 or value % SECTOR:
        raise InvalidValue(f"{value} bytes is not the size of a disk: it must be a positive multiple of 512")
    return value


def fits(value: int, pool: Pool) -> None:
    """Raise LimitExceeded if a pool cannot hold a layer of that size: better now than at a later write."""
    if value > _ASKED_FROM and value > pool.largest_device:
        limit = format_size(pool.largest_device)
        raise LimitExceeded(f"pool '{pool.name}' is on a file system whose files end at {limit}")


def geometry(block_size: int, page_size: int) -> None:
    """Both powers of two; a block at least a sector, a page 1 to 4096 blocks."""
    if not _power_of_two(block_size) or block_size < SECTOR:
        raise InvalidValue(f"block size {block_size} is not a power of two of at least 512")
    if not _power_of_two(page_size) or not block_size <= page_size <= MAX_PAGE_SIZE:
        raise InvalidValue(f"page size {page_size} is not a power of two from the block size to 1 GiB")
    if page_size // block_size > MAX_BLOCKS_PER_PAGE:
        raise InvalidValue(f"a page of {page_size} bytes has more than {MAX_BLOCKS_PER_PAGE} blocks")


def _power_of_two(value: int) -> bool:
    return value > 0 and not value & (value - 1)


def attributes(labels: Mapping[str, str | None] | None) -> dict[str, str | None]:
    """Keys of 1 to 255 printable characters, values of at most 64 KiB."""
    for key, value in (labels or {}).items():
        if not key or len(key) > MAX_KEY or not key.isprintable():
            raise InvalidValue(f"'{key}' is not an attribute key: 1 to {MAX_KEY} printable characters")
        if value is not None and _encoded(key, value) > MAX_VALUE:
            raise LimitExceeded(f"the value of attribute '{key}' is longer than {MAX_VALUE} bytes")
        if value is not None and key.startswith(qos.PREFIX):
            qos.value_of(key, value)
        if value is not None:
            _removal(key, value)
    return dict(labels or {})


def _encoded(key: str, value: str) -> int:
    """Give the bytes of a value; a word of a command line that is no text cannot be one."""
    try:
        return len(value.encode())
    except UnicodeEncodeError as exc:
        raise InvalidValue(f"the value of attribute '{key}' is not text") from exc


def _removal(key: str, value: str) -> None:
    """What says when a snapshot may be removed must be understood when that time comes."""
    if key == "expendable" and value not in ("true", "false"):
        raise InvalidValue(f"the attribute expendable is true or false, not '{value}'")
    if key == "expires":
        try:
            datetime.fromisoformat(value)
        except ValueError as exc:
            raise InvalidValue(f"'{value}' is not a time like 2026-12-31T12:00:00Z") from exc


def acted_upon(key: str) -> bool:
    """Say whether a worker acts upon the attribute: class and limits."""
    return key == classes.KEY or key.startswith(qos.PREFIX)


def conduct(labels: Mapping[str, str]) -> None:
    """A known class, and limits that go together, among all attributes of a Fisk."""
    classes.conduct_of(labels)
    qos.Limits.from_attributes(labels)


def set_attributes(labels: Mapping[str, str] | None) -> dict[str, str]:
    """The same for a new Fisk, where there is nothing to remove."""
    given = {key: value for key, value in attributes(labels).items() if value is not None}
    conduct(given)
    return given


def fisk_id(text: str | None) -> str:
    """A caller's id, or a new one."""
    if text is None:
        return str(uuid.uuid4())
    if not is_id(text):
        raise InvalidValue(f"'{text}' is not an id (a UUID)")
    return text.lower()


def clone_names(base: str, count: int) -> list[str]:
    """``base`` itself for one clone, ``base-1`` to ``base-count`` for several."""
    if not 1 <= count <= MAX_CLONES:
        raise InvalidValue(f"cannot make {count} clones: 1 to {MAX_CLONES} at once")
    if count == 1:
        return [name(base)]
    return [name(f"{base}-{number}") for number in range(1, count + 1)]
