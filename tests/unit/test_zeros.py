# SPDX-License-Identifier: Apache-2.0
"""Finding what is not zeros."""

import random

import pytest

from fisk_core.services.zeros import data_runs


def naive(data: bytes, block: int) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for start in range(0, len(data), block):
        part = data[start : start + block]
        if not any(part):
            continue
        if runs and sum(runs[-1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + len(part))
        else:
            runs.append((start, len(part)))
    return runs


@pytest.mark.parametrize("block", [8, 512, 4096])
@pytest.mark.parametrize("density", [0, 0.001, 0.05, 1])
def test_runs_match_the_definition(block: int, density: float) -> None:
    chance = random.Random(block)
    for length in (0, 1, 7, 8, block - 1, block, block + 1, 10 * block + 3, 20_000):
        data = bytearray(length)
        for _ in range(round(length * density)):
            data[chance.randrange(length)] = chance.randrange(256)
        assert list(data_runs(memoryview(data), block)) == naive(data, block)


@pytest.mark.parametrize("position", [0, 1, 7, 8, 511, 2048, 4095, 4096, 12287])
def test_a_single_bit_anywhere_counts(position: int) -> None:
    data = bytearray(12288)
    data[position] = 1
    assert list(data_runs(memoryview(data), 4096)) == [(position // 4096 * 4096, 4096)]
