# SPDX-License-Identifier: Apache-2.0
"""Hostile peers: whatever they send, the processes live, serve others, and give away nothing.

Two lanes side by side: the fuzzer of the data path in one process, and one after the other conversations with
real processes, images, and names.  Each is a child that writes a report.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proof.core import Context, Figure, ProofFailed, at_least, at_most, exactly, proof
from proof.hostile.inside import LONGER, Order

SECONDS = 110.0
CORPUS = Path(__file__).parent / "corpus"
MIB = 1 << 20
_START_AND_END = 10.0  # seconds of a child besides its work
_PATIENCE = 120.0  # seconds more, until it is said to hang
_SHARES = {"sockets": 0.36, "images": 0.32, "names": 0.32}
_LEAST = {"inside": 20_000, "sockets": 10_000, "images": 300, "names": 5_000}
MEMORY = 512 * MIB
"""how much any attacked process may grow, and what uses the engine in process"""
_LEFT = 8  # descriptors: files of layers opened when they are first read, the loop's own


class Child:
    """One part of the attack, in a process of its own."""

    def __init__(self, context: Context, part: str, seconds: float) -> None:
        self.part, self._seconds = part, seconds
        self._folder = context.scratch / part[:2]
        (self._folder / "h").mkdir(parents=True)
        shutil.copytree(CORPUS, self._folder / "s")
        self._report = self._folder / "report"
        home, seeds = str(self._folder / "h"), str(self._folder / "s")
        least = int(_LEAST[part] * context.seconds / SECONDS)
        order = Order(seconds, context.seed, home, seeds, str(self._report), least)
        (self._folder / "order").write_text(json.dumps(asdict(order)))

    def run(self) -> dict[str, Any]:
        """Give its report; raises ProofFailed for what it broke, or when it hangs."""
        with self._process() as process:
            try:
                process.wait(LONGER * self._seconds + _PATIENCE)
            except subprocess.TimeoutExpired:
                raise ProofFailed(f"hostile {self.part}: it hangs\n{self._said()}") from None
        if not self._report.exists():
            raise ProofFailed(f"hostile {self.part}: it ended with {process.returncode}\n{self._said()}")
        report: dict[str, Any] = json.loads(self._report.read_text())
        if report["broken"]:
            raise ProofFailed(self._broken(report))
        return report

    @contextmanager
    def _process(self) -> "Iterator[subprocess.Popen[bytes]]":
        command = [sys.executable, "-m", f"proof.hostile.{self.part}", str(self._folder / "order")]
        with (self._folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()

    def _said(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-3000:]

    def _broken(self, report: dict[str, Any]) -> str:
        found = report["input"]
        if self.part == "images":
            again = f"the image is {self._kept(found)}"
        elif self.part == "inside":
            again = f"python -m proof.hostile.replay {found}"
        else:
            again = f"what was sent last: {found[:4000]}"
        return f"hostile {self.part}: {report['broken']}\n{again}"

    def _kept(self, image: str) -> str:
        """Save an image from the end of the scratch directory."""
        kept = Path.cwd() / "hostile.image"
        shutil.copy(image, kept)
        return str(kept)


@proof("hostile", "Hostile peers: no crash, no hang, nothing of others, bounded memory", seconds=SECONDS)
def hostile(context: Context) -> list[Figure]:
    """Fuzz; raises ProofFailed."""
    scale, work = context.seconds / SECONDS, max(10.0, context.seconds - _START_AND_END)
    with ThreadPoolExecutor(2) as lanes:
        inside = lanes.submit(Child(context, "inside", work).run)
        others = lanes.submit(_one_after_the_other, context, work)
        found = {"inside": inside.result(), **others.result()}
    return _figures(found, scale)


def _one_after_the_other(context: Context, work: float) -> dict[str, dict[str, Any]]:
    reports = {}
    for part, share in _SHARES.items():
        reports[part] = Child(context, part, max(3.0, work * share - 3.0)).run()
        context.say(f"{part}: {reports[part]['counts']}")
    return reports


def _figures(found: dict[str, dict[str, Any]], scale: float) -> list[Figure]:
    inside, sockets, images, names = (found[part] for part in ("inside", *_SHARES))
    grown = max(report["grown"] for report in found.values())
    left = {part: found[part]["descriptors"] for part in ("inside", "sockets", "names")}
    slowest = max(sockets["slowest"], names["slowest"])
    least = {part: int(number * scale) for part, number in _LEAST.items()}
    return [
        at_least("inputs to the data path in process", inside["inputs"], least["inside"]),
        Figure("new inputs chosen by", "coverage (atheris)" if inside["guided"] else "chance (no atheris)"),
        Figure("requests in them, answered as they must be", inside["counts"]["replies"]),
        at_least("conversations with real processes", sockets["conversations"], least["sockets"]),
        at_least("images imported or refused", images["images"], least["images"]),
        at_least("names, numbers and documents", names["names"], least["names"]),
        exactly("crashes, hangs and disclosures", 0, 0),
        Figure("MiB that a process grew", round(grown / MIB), f"<= {MEMORY // MIB}", grown <= MEMORY),
        at_most("descriptors left", max(left.values()), _LEFT, f"{left}"),
        Figure("seconds a client that behaves waited, at most", round(slowest, 2)),
    ]
