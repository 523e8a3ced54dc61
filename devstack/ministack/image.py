# SPDX-License-Identifier: Apache-2.0
"""An image to boot servers of: 25 MiB, no network needed, QEMU's agent in it, tells its console what it sees.

``python -m devstack.ministack.image DIRECTORY`` writes ``tiny.qcow2`` and ``tiny.raw`` there.  What the
console says is written down in ``guest/init.sh``.
"""

import hashlib
import sys
from pathlib import Path

from demo import disk, initramfs, kernel
from demo.run import DemoFailed
from devstack.ministack import agent
from devstack.ministack.errors import MinistackError
from devstack.ministack.place import CHECKOUT
from devstack.ministack.processes import call

NAME = "tiny"
SIZE = disk.SIZE
"""bytes of the raw one"""
INIT = Path(__file__).parent / "guest" / "init.sh"
# Disks behind virtio, SCSI and IDE; what a config drive may be formatted as; the power button; agents.
MODULES = [
    *("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "ata_piix"),
    *("isofs", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "button", "evdev", "virtio_console"),
]
_CACHE = CHECKOUT / ".work" / "cache"


def build(directory: Path) -> tuple[Path, Path]:
    """Give the image as qcow2 and as raw in ``directory``, built where what it is made of has changed.

    Raises MinistackError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    qcow2, raw, stamp = (directory / f"{NAME}.{kind}" for kind in ("qcow2", "raw", "sha256"))
    made_of = _made_of()
    if not stamp.exists() or stamp.read_text() != made_of:
        try:
            files = {agent.ARCHIVE: agent.pack()}
            disk.build_disk(qcow2, _CACHE, directory / "build", INIT, MODULES, files)
        except DemoFailed as problem:
            raise MinistackError(f"the image cannot be built: {problem}") from None
        call(["qemu-img", "convert", "-O", "raw", qcow2, raw])
        stamp.write_text(made_of)
    return qcow2, raw


def _made_of() -> str:
    modules = (agent, disk, initramfs, kernel)
    files = [INIT, Path(__file__), *(Path(each.__file__ or "") for each in modules)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


if __name__ == "__main__":
    print(*build(Path(sys.argv[1])), sep="\n")
