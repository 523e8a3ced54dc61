# SPDX-License-Identifier: Apache-2.0
"""A guest in QEMU's software emulation: its console as lines, its power button over QMP."""

import json
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from demo.run import DemoFailed, Processes, expect, wait_for

BOOT_TIMEOUT = 90.0
POWER_OFF_TIMEOUT = 30.0
_EMULATOR = (
    *("qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-m", "192", "-smp", "1"),
    *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
)


class Guest:
    """One running machine whose only disk is ``drive``, a file name or NBD URI that QEMU understands.

    ``more`` are words for QEMU, for machines with more than that.
    """

    def __init__(
        self,
        processes: Processes,
        drive: str,
        scratch: Path,
        *,
        drive_format: str = "raw",
        more: Sequence[str] = (),
    ) -> None:
        self._processes = processes
        self._console = scratch / "console.log"
        self._qmp = scratch / "qmp.sock"
        self._log = scratch / "qemu.log"
        self._qmp.unlink(missing_ok=True)
        self._console.write_bytes(b"")
        self._process = processes.start(
            [
                *_EMULATOR,
                *("-serial", f"file:{self._console}"),
                *("-qmp", f"unix:{self._qmp},server=on,wait=off"),
                *("-drive", f"file={drive},format={drive_format},if=virtio"),
                *more,
            ],
            log=self._log,
        )

    def console(self) -> str:
        """Give all the console said until now."""
        return self._console.read_text(errors="replace")

    def wait_for_number(self, word: str, *, at_least: int = 0, timeout: float = BOOT_TIMEOUT) -> int:
        """Wait until the console says ``word N`` with N of ``at_least``; gives N."""
        pattern = re.compile(rf"^{word} (\d+)[^\n]*\n", re.MULTILINE)

        def newest() -> int | None:
            numbers = [int(number) for number in pattern.findall(self.console())]
            if not numbers and self._process.poll() is not None:
                raise DemoFailed(f"QEMU ended before '{word}' was on the console: {self._said()}")
            return numbers[-1] if numbers and numbers[-1] >= at_least else None

        return wait_for(newest, f"the guest's console ({self._console}) says '{word}'", timeout)

    def _said(self) -> str:
        return self._log.read_text(errors="replace").strip() or "it said nothing"

    def power_off(self) -> None:
        """Press the power button and wait until the guest has unmounted its disk and QEMU has ended."""
        self._press_power_button()
        wait_for(self._process.poll, "the guest powers off", POWER_OFF_TIMEOUT)
        status = self._processes.stop(self._process)
        expect(status == 0, f"QEMU ended with status {status}: {self._said()}")
        expect("unmounted" in self.console(), "the guest did not unmount its disk")

    def _press_power_button(self) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._qmp))
            with connection.makefile("rw") as stream:
                for command in ("qmp_capabilities", "system_powerdown"):
                    stream.write(json.dumps({"execute": command}) + "\n")
                    stream.flush()
                for line in stream:
                    if json.loads(line).get("event") == "POWERDOWN":
                        return
        raise DemoFailed("QEMU did not take the power button")
