# SPDX-License-Identifier: Apache-2.0
"""What a guest runs before (and here: instead of) its disk: busybox, some kernel modules, one script."""

import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path

from demo.kernel import Kernel
from demo.run import DemoFailed, call

BUSYBOX = Path("/bin/busybox")


def build_initramfs(kernel: Kernel, scratch: Path, init: Path, modules: Sequence[str]) -> Path:
    """Pack ``init`` as process 1, with what it loads: ``modules`` and all they need; raises DemoFailed."""
    tree = scratch / "initramfs"
    for directory in ("bin", "dev", "proc", "sys", "tmp", "disk", "modules"):
        (tree / directory).mkdir(parents=True)
    if not BUSYBOX.exists():
        raise DemoFailed("busybox-static is not installed; `make demo-core` installs what it needs")
    shutil.copy(BUSYBOX, tree / "bin" / "busybox")
    files = kernel.with_dependencies([*modules])
    for file in files:
        shutil.copy(file, tree / "modules")
    (tree / "modules" / "order").write_text("".join(f"{file.name}\n" for file in files))
    shutil.copy(init, tree / "init")
    (tree / "init").chmod(0o755)
    archive = scratch / "initrd.cpio"
    call(["sh", "-c", 'find . | cpio --quiet -o -H newc -R 0:0 >"$1"', "pack", archive.resolve()], cwd=tree)
    packed = scratch / "initrd.gz"
    packed.write_bytes(gzip.compress(archive.read_bytes(), 6, mtime=0))
    return packed
