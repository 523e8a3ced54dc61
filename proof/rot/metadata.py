# SPDX-License-Identifier: Apache-2.0
"""Damage to the files of a pool, and to those of a running home, one at a time."""

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

from fisk_core.blockmap import journal
from fisk_core.blockmap.journal import Journal
from fisk_core.dataplane import routes
from fisk_core.dataplane.client import NbdClient
from fisk_core.dataplane.fence import read_fence
from fisk_core.dataplane.server import ServeOptions
from fisk_core.dataplane.zygote import Zygote
from fisk_core.errors import FiskError
from fisk_core.pools import open_pool
from proof.core import ProofFailed
from proof.rot import damage
from proof.rot.judge import Judge, case_of, damaged, problems
from proof.rot.specimen import PLAIN, SUMMED, Specimen, View

_KINDS = {"map": 5, "log": 8, "header": 2, "end": 1, "sums": 4, "layer": 4}
_SUMMED_ONLY = ("sums", "layer")
_SERVED = 0.02  # of the trials go through a worker, too
_CHECKED = 0.05  # of what reading noticed is checked, too


class PoolFiles:
    """Maps, logs, headers and checksums; layers too where there are checksums."""

    def __init__(self, specimen: Specimen, judge: Judge, zygote: Zygote, folder: Path) -> None:
        self._specimen, self._judge, self._zygote = specimen, judge, zygote
        self._socket = str(folder / "nbd")
        self._files = {
            (pool, kind): specimen.files(pool, kind)
            for pool in (PLAIN, SUMMED)
            for kind in _KINDS
            if pool == SUMMED or kind not in _SUMMED_ONLY
        }
        missing = [name for name, files in self._files.items() if not files]
        if missing:
            raise ProofFailed(f"the specimen has no files of these kinds: {missing}")
        self._pools = {pool: specimen.engine.open_pool(pool) for pool in (PLAIN, SUMMED)}

    def trial(self, chance: Random) -> str:
        """Damage one file; says what it was, for who finds that it went wrong."""
        pool, kind = chance.choices([*self._files], [_KINDS[kind] for _, kind in self._files])[0]
        path = chance.choice(self._files[pool, kind])
        older = self._specimen.older.get(path, [])
        how, what, data = damage.choose(chance, case_of(path, self._files[pool, kind], older))
        label = f"{kind} {path.name} of pool {pool}: {what}"
        views = [view for view in self._specimen.views if view.pool == pool]
        views = [view for view in views if path.name in view.needs] or [chance.choice(views)]
        with damaged(path, data):
            try:
                self._judge_one(chance, kind, path, views)
            except ProofFailed as exc:
                raise ProofFailed(f"{label}: {exc}") from exc
            except Exception as exc:  # whatever else comes up is no answer to damage
                raise ProofFailed(f"{label}: {exc!r}") from exc
        self._judge.tally.counts[f"{kind} {how}"] += 1
        return label

    def _judge_one(self, chance: Random, kind: str, path: Path, views: Sequence[View]) -> None:
        counts = self._judge.tally.counts
        raised = [exc for view in views if (exc := self._judge.read(self._pools[view.pool], view))]
        for exc in raised:
            self._judge.named(exc, [path.name])
        if chance.random() < _SERVED:
            self._serve(chance.choice(views), bool(raised))
        if raised:
            counts["noticed by reading"] += 1
            if chance.random() < _CHECKED and not self._found(kind):
                raise ProofFailed("reading noticed what neither check nor scrub does")
        elif kind in _SUMMED_ONLY:
            counts["harmless"] += 1  # blocks that are nobody's
        elif found := problems(self._specimen.engine):
            every = self._specimen.views
            names = [path.name, *(view.name for view in every if view.spec.fisk_id == path.name)]
            if not any(name in text for name in names for text in found):
                raise ProofFailed(f"check names something else: {found}")
            counts["noticed by check"] += 1
        else:
            counts["harmless"] += 1

    def _found(self, kind: str) -> bool:
        engine = self._specimen.engine
        return not engine.scrub().ok if kind in _SUMMED_ONLY else bool(problems(engine))

    def _serve(self, view: View, noticed: bool) -> None:
        """Serve it by a worker; what a client reads is right, or an error."""
        counts = self._judge.tally.counts
        try:
            pid, [uri] = self._zygote.spawn(view.spec, ServeOptions(unix=self._socket))
        except FiskError:
            if not noticed:
                raise
            counts["workers that did not start"] += 1
            return
        try:
            with NbdClient.connect(uri) as client:
                self._read_served(client, view)
        finally:
            os.kill(pid, 15)
            self._zygote.wait(pid)

    def _read_served(self, client: NbdClient, view: View) -> None:
        for at in range(0, len(view.content), 4096):
            wanted = view.content[at : at + 4096]
            try:
                found = client.read(at, len(wanted))
            except FiskError:
                self._judge.tally.counts["reads a worker refused"] += 1
                continue
            self._judge.same(bytes(found), wanted, f"{view.name} at {at}, from a worker")


class PoolHeader:
    """``pool.json``."""

    def __init__(self, specimen: Specimen, judge: Judge) -> None:
        self._judge = judge
        self._pools = [specimen.engine.open_pool(pool) for pool in (PLAIN, SUMMED)]
        self._paths = [specimen.path(pool) / "pool.json" for pool in (PLAIN, SUMMED)]

    def trial(self, chance: Random) -> str:
        """Damage one; the pool must be the same, or not be opened."""
        number = chance.randrange(2)
        pool, path = self._pools[number], self._paths[number]
        how, what, data = damage.choose(chance, damage.Case(path.read_bytes()))
        counts = self._judge.tally.counts
        with damaged(path, data):
            try:
                again = open_pool(pool.spec())
            except FiskError as exc:
                self._judge.named(exc, ["pool.json"])
                counts["noticed by reading"] += 1
            else:
                if (again.id, dict(again.options)) != (pool.id, dict(pool.options)):
                    raise ProofFailed(f"pool.json: {what}: the pool is another one now: {again.options}")
                counts["harmless"] += 1
        counts[f"pool header {how}"] += 1
        return f"pool.json: {what}"


class Running:
    """What is in ``run`` and ``locks``: journals, routes of exports, fences."""

    _MAP, _OTHER = "5f0c5f0c-0000-4000-8000-000000000001", "5f0c5f0c-0000-4000-8000-000000000002"

    def __init__(self, folder: Path, judge: Judge, chance: Random) -> None:
        folder.mkdir()
        self._folder, self._judge = folder, judge
        self._journals = [self._make_journal(folder / f"{each}.journal", each, chance) for each in self._ids]
        for token in ("token", "other"):
            routes.publish(folder, token, routes.Route(f"/run/{token}.ctl", token == "other"))
        self._fence = folder / "x.fence"
        self._fence.write_text("12\n")

    @property
    def _ids(self) -> tuple[str, str]:
        return self._MAP, self._OTHER

    def _make_journal(self, path: Path, map_id: str, chance: Random) -> Path:
        made = Journal(path, map_id, 3)
        for number in range(60):
            made.note(chance.randrange(1 << 20), chance.randrange(1, 40), chance.random() < 0.8)
            if number == 20:
                made.forget(made.end - 5)
        made.close(remove=False)
        with path.open("r+b") as file:  # what is behind the changes is the same as what is never read
            file.truncate(4096 + 16 * 60)
        return path

    def trial(self, chance: Random) -> str:
        """Damage one of them."""
        return chance.choices((self._journal, self._route, self._fenced), (5, 3, 1))[0](chance)

    def _journal(self, chance: Random) -> str:
        path, other = self._journals
        wanted = [*journal.read(path, self._MAP, 3)]
        case = damage.Case(path.read_bytes(), (other.read_bytes(),))
        how, what, data = damage.choose(chance, case)
        with damaged(path, data):
            try:
                found = [*journal.read(path, self._MAP, 3)]
            except FiskError as exc:
                self._judge.named(exc, [path.name])
                self._judge.tally.counts["noticed by reading"] += 1
            else:
                # Without it, what was not flushed is lost, as after a power cut.
                if found != wanted and (found or data):
                    raise ProofFailed(f"journal: {what}: {len(found)} changes instead of {len(wanted)}")
                self._judge.tally.counts["harmless"] += 1
        self._judge.tally.counts[f"journal {how}"] += 1
        return f"journal: {what}"

    def _route(self, chance: Random) -> str:
        wanted = routes.find(self._folder, b"token")
        mine, other = sorted(
            (path for path in self._folder.iterdir() if len(path.name) == 64),
            key=lambda path: "token" not in path.read_text(),
        )
        how, what, data = damage.choose(chance, damage.Case(mine.read_bytes(), (other.read_bytes(),)))
        with damaged(mine, data):
            found = routes.find(self._folder, b"token")
        if found not in (None, wanted):
            raise ProofFailed(f"route of an export: {what}: it leads to {found}")
        self._judge.tally.counts["noticed by reading" if found is None else "harmless"] += 1
        self._judge.tally.counts[f"route {how}"] += 1
        return f"route: {what}"

    def _fenced(self, chance: Random) -> str:
        """The lock decides who writes; whatever a fence says, it lets nobody write who may not."""
        how, what, data = damage.choose(chance, damage.Case(self._fence.read_bytes()))
        with damaged(self._fence, data):
            try:
                read_fence(self._fence)
            except FiskError as exc:
                self._judge.named(exc, [self._fence.name])
                self._judge.tally.counts["noticed by reading"] += 1
            else:
                self._judge.tally.counts["harmless"] += 1
        self._judge.tally.counts[f"fence {how}"] += 1
        return f"fence: {what}"
