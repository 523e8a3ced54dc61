# SPDX-License-Identifier: Apache-2.0
"""Everything of the data path that a stranger's bytes reach, in this process, behind one function.

The first byte of an input chooses the surface, the rest is a program for it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from proof.hostile import control, liar
from proof.hostile.grammar import conversation
from proof.hostile.target import FROZEN, NAME, ORDERED, TOKEN, Attacked, Scene, Trial, scene


class Surfaces:
    """The surfaces of one scene."""

    def __init__(self, scene: Scene, live: Attacked, frozen: Attacked, ordered: Attacked) -> None:
        self.scene = scene
        self.counts: Counter[str] = Counter()
        self._world = scene.world
        self._network = replace(scene.world, export=TOKEN.encode())
        self.live = live
        self.trial, self._frozen = Trial(live, False), Trial(frozen, True)
        self.lines = control.Lines(ordered.server, ordered.turn)
        self._document = asdict(frozen.server.disk.spec), asdict(frozen.server.options)
        self._surfaces: tuple[Callable[[bytes], None], ...] = (
            self._converse, self._converse, self._converse, self._read, self._receive, self._receive,
            self._listen, self._listen, self._command, self._deliver,
        )  # fmt: skip

    def run(self, data: bytes) -> None:
        """Raises Broken, or what would have ended a worker or a client."""
        if data:
            self._surfaces[data[0] % len(self._surfaces)](data[1:])
            self.counts["inputs"] += 1

    def _converse(self, program: bytes) -> None:
        verdict = self.trial.run(conversation(program, self._world))
        self.counts["requests"] += len(verdict.requests)
        self.counts["replies"] += verdict.replies
        self.counts["options"] += verdict.options

    def _read(self, program: bytes) -> None:
        self._frozen.run(conversation(program, self._world))

    def _receive(self, program: bytes) -> None:
        self.trial.run(conversation(program, self._network), through_acceptor=True)

    def _listen(self, program: bytes) -> None:
        self.counts[f"client: {liar.listen(program)}"] += 1

    def _command(self, program: bytes) -> None:
        self.lines.run(program)

    def _deliver(self, program: bytes) -> None:
        spec, options = self._document
        control.deliver(program, dict(spec), dict(options))


@contextmanager
def surfaces(home: Path) -> Iterator[Surfaces]:
    """Make a scene in ``home``, and servers on it; in the end the sentinel must be what it was."""
    with ExitStack() as stack:
        made = stack.enter_context(scene(home))
        stack.enter_context(made.engine.acquire(NAME, True))
        live = stack.enter_context(closing(Attacked(made, NAME, read_only=False)))
        frozen = stack.enter_context(closing(Attacked(made, FROZEN, read_only=True)))
        ordered = stack.enter_context(closing(Attacked(made, ORDERED, read_only=True)))
        yield Surfaces(made, live, frozen, ordered)
        made.check_sentinel()
