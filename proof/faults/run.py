# SPDX-License-Identifier: Apache-2.0
"""The proof: every call of the operating system fails once in every way, wherever a scenario makes it."""

import csv
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proof.core import Context, Figure, ProofFailed, exactly, proof
from proof.faults import sites
from proof.faults.injector import Fault, Site
from proof.faults.running import Outcome, Task, play_all
from proof.faults.scenarios import Scenario, load

FOUND = Path(__file__).resolve().parents[1] / "replays" / "faults" / "found.csv"
_SHOWN = 12  # violations in a message
_AGAIN = 5  # plays of each finding
_TRIES = 8  # rounds of plays for faults that did not come about, for threads took another turn

Pair = tuple[Site, str]


@dataclass
class Campaign:
    """What was played so far, and what came of it."""

    context: Context
    scenarios: dict[str, Scenario]
    chances: dict[Pair, list[Task]] = field(default_factory=lambda: defaultdict(list))
    """the plays by which a site can be made to fail in a way"""
    met: set[Pair] = field(default_factory=set)
    failed: set[Site] = field(default_factory=set)
    plays: int = 0
    failures: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    source: list[Site] = field(default_factory=lambda: list(sites.every()))
    """the call sites there are"""
    _rounds: int = 0

    def look(self) -> None:
        """Play everything without a fault, to see what is called."""
        tasks = [
            Task(name) for name in sorted(self.scenarios, key=lambda name: not self.scenarios[name].slow)
        ]
        for outcome in self._play(tasks, float("inf")):
            if outcome.failures and not outcome.problems:
                self.broken.append(f"{outcome.task}: a step failed, though nothing was made to")
            for site, number, kinds in outcome.trace:
                for kind in kinds:
                    fault = Fault(site, number, kind)
                    self.chances[site, kind].append(Task(outcome.task.scenario, fault))

    def found_before(self) -> None:
        """Play what was once found again."""
        with FOUND.open(newline="", encoding="utf-8") as file:
            rows = [(row["scenario"], row["file"], row["call"], row["kind"]) for row in csv.DictReader(file)]
        found: dict[tuple[str, ...], list[Task]] = {row: [] for row in rows}
        for (site, kind), tasks in sorted(self.chances.items()):
            for task in tasks:
                found.get((task.scenario, site.file, site.call, kind), []).append(task)
        chance = self.context.random("faults", "found")
        chosen = [chance.sample(each, min(_AGAIN, len(each))) for each in found.values()]
        for _ in self._play([task for each in chosen for task in each], float("inf")):
            pass

    def each_once(self) -> None:
        """Make every site fail in every way it can, at one of the calls it makes."""
        chance = self.context.random("faults", "once")
        for turn in range(_TRIES):
            pairs = sorted(set(self.chances) - self.met)
            if not pairs:
                return
            if turn:
                self.context.say(f"{len(pairs)} faults did not come about; once more")
            tasks = [task for pair in pairs for task in self._pick(pair, turn, chance)]
            chance.shuffle(tasks)
            for _ in self._play(tasks, float("inf")):
                pass

    def _pick(self, pair: Pair, turn: int, chance: random.Random) -> list[Task]:
        """Choose a call of the site, in a scenario that is soon over where there is one.

        A scenario that waits for something makes as many calls as it takes, another number each time.  Where
        one did not come about, an earlier one is chosen, the surer the more often, in each of the scenarios.
        """
        tasks = [task for task in self.chances[pair] if not self.scenarios[task.scenario].slow]
        tasks = tasks or self.chances[pair]
        if not turn:
            return [chance.choice(tasks)]
        calls: dict[str, list[Task]] = defaultdict(list)
        for task in tasks:
            calls[task.scenario].append(task)
        return [chance.choice(each[: max(len(each) >> turn, 1)]) for each in calls.values()]

    def more(self, deadline: float) -> None:
        """Fail other calls of the same sites, in an order of chance, until the time is over."""
        tasks = [task for each in self.chances.values() for task in each]
        tasks = [task for task in tasks if not self.scenarios[task.scenario].slow]
        self.context.random("faults", "more").shuffle(tasks)
        for _ in self._play(tasks, deadline):
            pass

    def _play(self, tasks: Sequence[Task], deadline: float) -> Iterator[Outcome]:
        self._rounds += 1
        directory = self.context.scratch / f"r{self._rounds}"
        directory.mkdir()
        for outcome in play_all(directory, self.scenarios, tasks, self.context.processes, deadline):
            self._take(outcome)
            yield outcome

    def _take(self, outcome: Outcome) -> None:
        self.plays += 1
        self.failures += outcome.failures
        self.counts.update(outcome.counts)
        self.failed |= outcome.failed
        fault = outcome.task.fault
        if fault is not None and outcome.met:
            self.met.add((fault.site, fault.kind))
        self.broken += [f"{outcome.task}: {problem}" for problem in outcome.problems]

    # What is said about it

    @property
    def missing(self) -> list[Site]:
        """Call sites in the source that never failed."""
        places = {(site.file, site.line, site.column) for site in self.failed}
        lines = {(site.file, site.line, site.call) for site in self.failed}
        return [
            site
            for site in self.source
            if (site.file, site.line, site.column) not in places
            and (site.file, site.line, site.call) not in lines
        ]

    def figures(self) -> list[Figure]:
        total = len(self.source)
        reached = total - len(self.missing)
        pairs, met = len(self.chances), len(self.met & set(self.chances))
        possible = sum(map(len, self.chances.values()))
        return [
            exactly("call sites that failed at least once", f"{reached} of {total}", f"{total} of {total}"),
            exactly("ways in which they can fail, seen", f"{met:,} of {pairs:,}", f"{pairs:,} of {pairs:,}"),
            Figure("plays (of so many calls that can fail)", f"{self.plays:,} (of {possible:,})"),
            Figure("steps that ended in a typed error", self.failures),
            Figure("requests of NBD clients, answered", f"{self.counts['replies']:,}"),
            exactly("violations", len(self.broken), 0),
        ]


def describe(broken: Sequence[str], seed: int) -> str:
    """Give what broke, and how to see it again."""
    lines = [*broken[:_SHOWN], *([f"... and {len(broken) - _SHOWN} more"] if len(broken) > _SHOWN else [])]
    again = "python -m proof.faults SCENARIO FILE CALL KIND [NUMBER] plays one of them"
    return "\n".join((*lines, f"again: python -m proof --only faults --seed {seed}; {again}"))


@proof("faults", "the k-th call fails, for every k", seconds=150)
def run(context: Context) -> list[Figure]:
    """Play all scenarios with all faults that fit into the time, each kind at each site at least once."""
    deadline = time.monotonic() + context.seconds
    campaign = Campaign(context, load())
    campaign.look()
    context.say(
        f"{len(campaign.chances)} ways to fail at {len({site for site, _ in campaign.chances})} sites"
    )
    campaign.found_before()
    campaign.each_once()
    campaign.more(deadline)
    for site, kind in sorted(set(campaign.chances) - campaign.met):
        context.say(f"never came about: {kind} at {site}")
    for site in campaign.missing:
        context.say(f"never failed: {site}")
    if campaign.broken:
        raise ProofFailed(describe(campaign.broken, context.seed))
    return campaign.figures()


def matching(found: Iterable[Task], file: str, call: str, kind: str) -> list[Task]:
    """Give the plays in which calls of a file fail in a way, in the order in which they are made."""
    return [
        task
        for task in found
        if task.fault is not None
        and (task.fault.site.file, task.fault.site.call, task.fault.kind) == (file, call, kind)
    ]


def chances(directory: Path, scenarios: dict[str, Scenario], name: str) -> list[Task]:
    """Give every play of a scenario in which one call fails."""
    directory.mkdir()
    outcomes = play_all(directory, scenarios, [Task(name)], 1, float("inf"))
    return [
        Task(name, Fault(site, number, kind))
        for outcome in outcomes
        for site, number, kinds in outcome.trace
        for kind in kinds
    ]
