# SPDX-License-Identifier: Apache-2.0
"""What a soak must have shown: no mismatch, no descriptor more, bounded memory, no garbage."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from proof.core import Figure, at_least, at_most, exactly
from proof.soak.soak import Result
from proof.soak.watch import Process

_LASTING = 1800.0  # seconds a process must have been watched for its growth to say anything
_WARM = 600.0  # seconds until it has what it keeps
_SPARE = 1 << 20  # bytes that a file system needs itself, and an empty live layer
_SHORT_GROWTH = 16 << 20  # bytes a process may be larger in the end than one of its kind was
_COMING_AND_GOING = {"/layers/", "/blobs/"}
"""as many as the map of the moment needs"""


def leaked(result: Result) -> dict[str, int]:
    """Give the descriptors that the processes of a kind have more than in the beginning.

    Those of connections to the catalog do not count: as many are kept as were ever busy at once.
    """
    before, after = _most(result.before), _most(result.after)
    more = Counter[str]()
    for role, kinds in after.items():
        for kind, count in kinds.items():
            if "catalog.sqlite" not in kind and role in before:
                more[f"{kind} of {role}"] += max(0, count - before[role][kind])
    for process in result.after:
        for path in process.deleted:
            more[f"deleted {path} of {process.role}"] += 1
    return {what: count for what, count in more.items() if count}


def _most(processes: Iterable[Process]) -> dict[str, Counter[str]]:
    """Give the most descriptors of each kind that one process of a role has."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for process in processes:
        for kind, count in process.descriptors.items():
            if kind not in _COMING_AND_GOING:
                found[process.role][kind] = max(found[process.role][kind], count)
    return found


def hourly_growth(result: Result) -> float | None:
    """Give the most that a process watched long enough grew, in percent an hour; None: none was."""
    seen: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for at, processes in result.samples:
        for process in processes:
            seen[process.pid].append((at, process.resident))
    found = []
    for samples in seen.values():
        warm = [sample for sample in samples if sample[0] >= samples[0][0] + _WARM]
        if warm and warm[-1][0] - warm[0][0] >= _LASTING:
            hours = (warm[-1][0] - warm[0][0]) / 3600
            half = len(warm) // 2
            first, second = (_mean(part) for part in (warm[:half], warm[half:]))
            found.append(100 * (second / first - 1) / (hours / 2))
    return max(found) if found else None


def _mean(samples: list[tuple[float, int]]) -> float:
    return sum(resident for _, resident in samples) / len(samples)


def grown(result: Result) -> int:
    """Give by how many bytes the largest process of a kind outgrew the largest there was in the beginning."""
    largest = {process.role: 0 for process in result.before}
    for process in result.before:
        largest[process.role] = max(largest[process.role], process.resident)
    return max(
        (process.resident - largest[process.role] for process in result.after if process.role in largest),
        default=0,
    )


def figures(result: Result) -> list[Figure]:
    """Give what was found as figures with what they must be."""
    counts, growth = result.counts, hourly_growth(result)
    found = [
        exactly("mismatches and other problems", len(result.problems), 0),
        Figure("minutes", round(result.seconds / 60, 1)),
        at_least("blocks read and verified", counts["blocks verified"], 1000),
        Figure(
            "snapshots, clones, moves", sum(counts[each] for each in ("snapshot", "group", "clone", "move"))
        ),
        at_least("snapshots compared again", counts["snapshots verified"], 5),
        at_least("kills", counts["kills of workers"] + counts["kills of fiskd"], 5),
        exactly("descriptors leaked", sum(leaked(result).values()), 0),
        exactly("bytes of garbage after one quiet sweep", result.garbage, 0),
        at_most("bytes of layers beyond what maps point to", result.unreferenced, _SPARE),
        exactly("bytes left when everything is deleted", result.left, 0),
    ]
    if growth is None:
        more = grown(result)
        found.append(Figure("MiB grown", round(more / (1 << 20), 1), "<= 16", more <= _SHORT_GROWTH))
    else:
        found.append(Figure("memory grown, % an hour", round(growth, 2), "< 1", growth < 1))
    return found
