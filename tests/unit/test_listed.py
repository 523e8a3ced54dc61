# SPDX-License-Identifier: Apache-2.0
"""Checksums in lists, as earlier versions wrote them; written here from the description of the format."""

import random
import struct
import zlib

import pytest

from fisk_core.blockmap.listed import Listed, name_of
from fisk_core.errors import Corrupt, Unsupported
from tests.disks import make_pool, new_id

LAYER = new_id()


def stored(runs, magic=b"FISKSUM\0", version=1):
    """Give a list of (first block, checksums) as a blob."""
    data = struct.pack("<8sII", magic, version, 512)
    for first, checksums in runs:
        data += struct.pack("<QQ", first, len(checksums)) + struct.pack(f"<{len(checksums)}I", *checksums)
    return data + struct.pack("<I", zlib.crc32(data))


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool")


@pytest.mark.parametrize("seed", range(5))
def test_every_range_of_random_runs(pool, seed):
    chance, model, runs, at = random.Random(seed), [], [], 0
    for _ in range(chance.randint(0, 6)):
        gap, checksums = chance.randint(1, 4), [chance.getrandbits(32) for _ in range(chance.randint(1, 5))]
        runs.append((at + gap, checksums))
        model += [0] * gap + checksums
        at += gap + len(checksums)
    model += [0] * 4
    pool.put_blob(name_of(LAYER), [stored(runs)])
    found = Listed(pool, LAYER)
    assert (found.layer_id, found.block_size) == (LAYER, 512)
    for first in range(len(model)):
        for count in range(1, len(model) - first + 1):
            assert list(found.get(first, count)) == model[first : first + count]
    found.close()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (stored([(0, [1])])[:-1], Corrupt, f"{name_of(LAYER)} does not match its checksum"),
        (stored([])[:19], Corrupt, f"{name_of(LAYER)} does not match its checksum"),
        (b"", Corrupt, f"{name_of(LAYER)} does not match its checksum"),
        (stored([], magic=b"FISKSUX\0"), Corrupt, f"{name_of(LAYER)} is not a list of checksums"),
        (stored([], version=2), Unsupported, r"was written by a newer Fisk \(version 2\)"),
    ],
    ids=["cut", "too short", "empty", "something else", "newer"],
)
def test_what_is_no_list(pool, data, error, words):
    pool.put_blob(name_of(LAYER), [data])
    with pytest.raises(error, match=words):
        Listed(pool, LAYER)
