# SPDX-License-Identifier: Apache-2.0
"""The proof ``kernelnbd``: boots a guest, has it do what ``inside`` says, and reads its console.

A kernel without the NBD client cannot show this, and most machines that run proofs have one; so the kernel
is a guest's.  It is Debian's, with Debian's module ``nbd``, loaded by modprobe as on any host.
"""

import re
import sys

from proof.core import Context, Figure, ProofFailed, at_least, exactly, proof
from proof.kernelnbd.machine import booted

LEAST_KILLS, LEAST_BLOCKS = 4, 500
_PATIENCE = 600.0
"""seconds more than its share of the time: a guest that takes longer stands still"""
_KILLING = 1 / 3
"""of the time; the rest goes to everything else"""
_WORD = re.compile(r"^(step|figure) (\w+) ([\d.]+)$")


@proof("kernelnbd", "a Fisk on the kernel's own NBD client, in a kernel that has it", seconds=60)
def run(context: Context) -> list[Figure]:
    """Boot, attach, work, kill, change, detach."""
    command = [
        sys.executable, "-m", "proof.kernelnbd.inside",
        str(context.seed), str(context.seconds * _KILLING),
    ]  # fmt: skip
    console: list[str] = []
    figures: dict[str, float] = {}
    steps = 0
    with booted(context.scratch, command, context.seconds + _PATIENCE) as lines:
        for line in lines:
            console.append(line)
            if not (found := _WORD.match(line)):
                continue
            if found[1] == "figure":
                figures[found[2]] = float(found[3])
            else:
                steps += 1
                context.say(f"{found[2].replace('_', ' ')}: {found[3]} s")
    if "PASSED" not in console:
        again = f"python -m proof --only kernelnbd --seed {context.seed}"
        raise ProofFailed("\n".join([*console[-100:], f"See it again: {again}"]))
    return [
        exactly("steps in the guest that went as they must", steps, int(figures["steps"])),
        at_least("kills of worker, daemon and keeper under load", int(figures["kills"]), LEAST_KILLS),
        at_least("blocks written past the cache, each found right", int(figures["blocks"]), LEAST_BLOCKS),
    ]
