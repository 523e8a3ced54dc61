# SPDX-License-Identifier: Apache-2.0
"""A guest with a kernel of its own and this host's files: user-mode Linux.

It runs programs on the processor itself and needs neither privileges nor virtualization.  Nothing it does
reaches the host: its root is the host's file tree, mounted read-only, under a layer in its memory.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

from proof.core import ProofFailed

KERNEL = "linux.uml"
_MODULES = Path("/usr/lib/uml/modules")
_MEMORY = "640M"


def modules() -> Path:
    """Give the directory of the kernel's modules; raises ProofFailed where it is not installed."""
    found = sorted(_MODULES.glob("*/kernel"))
    if shutil.which(KERNEL) is None or not found:
        raise ProofFailed(f"{KERNEL} is not installed (Debian: user-mode-linux)")
    return found[-1].parent


@contextmanager
def booted(scratch: Path, command: Sequence[str], seconds: float) -> Iterator[Iterator[str]]:
    """Run ``command`` as root in a guest; gives the lines of its console until it is switched off.

    After ``seconds`` it is switched off whatever it does.
    """
    here = Path(__file__).resolve()
    words = [
        KERNEL, f"mem={_MEMORY}", f"uml_dir={scratch}/", "umid=guest", "rootfstype=hostfs", "rootflags=/",
        "ro", f"init={here.with_name('guest.sh')}", "con=null", "con0=null,fd:1", "quiet",
        "--", str(here.parents[2]), str(modules()), *command,
    ]  # fmt: skip
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(scratch)},
        start_new_session=True,
    )
    assert process.stdout is not None
    timer = Timer(seconds, _switch_off, [process])
    timer.start()
    try:
        yield (line.rstrip("\n") for line in process.stdout)
    finally:
        timer.cancel()
        _switch_off(process)
        process.stdout.close()
        process.wait()


def _switch_off(process: "subprocess.Popen[str]") -> None:
    """End the guest with all its processes, which are the host's as well, in a group of their own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
