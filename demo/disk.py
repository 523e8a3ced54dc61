# SPDX-License-Identifier: Apache-2.0
"""A bootable disk of 25 MiB, built without root or loop devices.

Layout, in MiB: 0-1 MBR (syslinux); 1-19 partition 1, FAT16: syslinux, kernel, initramfs; 19-25
partition 2, ext4: the files ``boots`` (how often this disk was booted) and ``ticks`` (seconds it was
up, written all the time).
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from demo.initramfs import build_initramfs
from demo.kernel import Kernel, fetch_kernel
from demo.run import DemoFailed, call

MIB = 1 << 20
SIZE = 25 * MIB
BOOT_START, BOOT_SIZE = 1 * MIB, 18 * MIB
ROOT_START, ROOT_SIZE = BOOT_START + BOOT_SIZE, 6 * MIB
INIT = Path(__file__).with_name("init.sh")
MODULES = ["virtio_pci", "virtio_blk", "button", "evdev"]
# The last ones spare an emulated processor work and waiting that only real ones need.
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=1 mitigations=off nokaslr tsc=unstable no_timer_check random.trust_cpu=on "
    "8250.nr_uarts=1"
)
_MBR_CODE = [Path("/usr/lib/SYSLINUX/mbr.bin"), Path("/usr/lib/syslinux/mbr/mbr.bin")]
_MBR_CODE_SIZE = 440
_SECTOR = 512


def build_disk(
    target: Path,
    cache: Path,
    scratch: Path,
    init: Path = INIT,
    modules: Sequence[str] = MODULES,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write the disk as qcow2 to ``target``; ``scratch`` is emptied afterwards.  Raises DemoFailed.

    ``init`` is the script the guest runs as process 1, ``modules`` are loaded before; ``files`` are in
    its file system, by name.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    kernel = fetch_kernel(cache, scratch)
    raw = scratch / "disk.raw"
    _partition(raw)
    initramfs = build_initramfs(kernel, scratch, init, modules)
    _place(_boot_partition(kernel, initramfs, scratch), raw, BOOT_START)
    _place(_root_partition(scratch, files or {}), raw, ROOT_START)
    _make_bootable(raw)
    call(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, target])
    shutil.rmtree(scratch)


def _partition(raw: Path) -> None:
    with raw.open("wb") as disk:
        disk.truncate(SIZE)
    table = raw.with_suffix(".table")
    table.write_text(
        "label: dos\n"
        f"start={BOOT_START // _SECTOR}, size={BOOT_SIZE // _SECTOR}, type=e, bootable\n"
        f"start={ROOT_START // _SECTOR}, size={ROOT_SIZE // _SECTOR}, type=83\n"
    )
    call(["sh", "-c", 'exec sfdisk --quiet "$1" <"$2"', "sfdisk", raw, table])


def _boot_partition(kernel: Kernel, initramfs: Path, scratch: Path) -> Path:
    configuration = scratch / "syslinux.cfg"
    configuration.write_text(
        "SERIAL 0 115200\nDEFAULT linux\nPROMPT 0\n"
        f"LABEL linux\n KERNEL vmlinuz\n INITRD initrd.gz\n APPEND {KERNEL_ARGUMENTS}\n"
    )
    part = scratch / "boot.part"
    with part.open("wb") as file:
        file.truncate(BOOT_SIZE)
    # -h: the boot sector must know how far into the disk its partition starts
    call(["mkfs.fat", "-F", "16", "-n", "BOOT", "-h", str(BOOT_START // _SECTOR), part])
    _copy_in(part, kernel.image, "vmlinuz")
    _copy_in(part, initramfs, "initrd.gz")
    _copy_in(part, configuration, "syslinux.cfg")
    return part


def _copy_in(part: Path, source: Path, name: str) -> None:
    call(["mcopy", "-i", part, source, f"::{name}"])


def _root_partition(scratch: Path, files: Mapping[str, bytes]) -> Path:
    content = scratch / "root"
    content.mkdir()
    for name, data in {"boots": b"0\n", "ticks": b"0\n", **files}.items():
        (content / name).write_bytes(data)
    part = scratch / "root.part"
    call(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", content, part, f"{ROOT_SIZE // 1024}k"])
    return part


def _place(part: Path, raw: Path, offset: int) -> None:
    with raw.open("r+b") as disk:
        disk.seek(offset)
        disk.write(part.read_bytes())


def _make_bootable(raw: Path) -> None:
    code = next((path for path in _MBR_CODE if path.exists()), None)
    if code is None:
        raise DemoFailed("syslinux is not installed; `make demo-core` installs what it needs")
    _place_code(code, raw)
    call(["syslinux", "--install", "--offset", str(BOOT_START), raw])


def _place_code(code: Path, raw: Path) -> None:
    with raw.open("r+b") as disk:
        disk.write(code.read_bytes()[:_MBR_CODE_SIZE])
