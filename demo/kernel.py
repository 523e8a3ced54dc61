# SPDX-License-Identifier: Apache-2.0
"""The kernel of the demonstration's guest: Debian's own package, fetched and unpacked, never installed.

The package file is kept in the cache directory; a package of another version there is replaced.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from demo.run import DemoFailed, call

META_PACKAGE = "linux-image-cloud-amd64"
_APT = ("-o", "APT::Sandbox::User=root")  # the cache belongs to whoever runs this, not to apt's own user


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    version: str
    image: Path
    modules: Path

    def with_dependencies(self, names: list[str]) -> list[Path]:
        """Give the files of the modules ``names`` and of all they need, in the order to load them."""
        files = {path.stem.replace("-", "_"): path for path in self.modules.rglob("*.ko")}
        order: dict[str, Path] = {}

        def visit(name: str) -> None:
            if name in order or name not in files:  # what has no file is built into the kernel
                return
            for needed in call(["modinfo", "-F", "depends", files[name]]).strip().split(","):
                visit(needed.replace("-", "_"))
            order[name] = files[name]

        for name in names:
            visit(name)
        return list(order.values())


def fetch_kernel(cache: Path, scratch: Path) -> Kernel:
    """Give Debian's current cloud kernel, unpacked below ``scratch``; raises DemoFailed."""
    package = _fetch_package(cache)
    target = scratch / "kernel"
    call(["dpkg-deb", "-x", package, target])
    images = sorted(target.glob("boot/vmlinuz-*"))
    if not images:
        raise DemoFailed(f"{package.name} holds no kernel")
    version = images[-1].name.removeprefix("vmlinuz-")
    return Kernel(version, images[-1], target / "lib" / "modules" / version)


def _fetch_package(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    name = _versioned_package()
    wanted = _candidate_version(name)
    target = cache / f"{name}_{wanted.replace(':', '%3a')}.deb"
    if not target.exists():
        for old in cache.glob("linux-image-*.deb"):
            old.unlink()
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            call(["apt-get", *_APT, "download", f"{name}={wanted}"], cwd=Path(partial), timeout=180)
            next(Path(partial).glob("*.deb")).rename(target)
    return target


def _versioned_package() -> str:
    """Give the package the meta package stands for: ``linux-image-6.1.0-9-cloud-amd64``."""
    for line in call(["apt-cache", "depends", "--important", META_PACKAGE]).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    raise DemoFailed(f"apt does not know {META_PACKAGE}; `apt-get update` first")


def _candidate_version(package: str) -> str:
    for line in call(["apt-cache", "show", "--no-all-versions", package]).splitlines():
        if line.startswith("Version: "):
            return line.removeprefix("Version: ").strip()
    raise DemoFailed(f"apt does not know {package}; `apt-get update` first")
