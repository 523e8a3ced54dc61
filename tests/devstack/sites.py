# SPDX-License-Identifier: Apache-2.0
"""A host on which DevStack runs, in a directory: ``drive.sh`` in Python."""

import configparser
import os
import subprocess
import sys
from pathlib import Path

from fisk_core.client import RemoteEngine
from fisk_core.errors import FiskError

HERE = Path(__file__).parent
STACK = (
    "begin",
    *(f"stack:{phase}" for phase in ("pre-install", "install", "post-config", "extra", "test-config")),
)


class Site:
    """A host on which DevStack runs, in a directory."""

    def __init__(self, path: Path, **settings: str) -> None:
        self.path, self.settings = path, settings
        self.home = path / "data" / "fisk"

    def drive(self, *words: str, fails: bool = False) -> str:
        """Do what the words say; gives what was printed."""
        environment = {
            name: os.environ[name] for name in ("PATH", "HOME", "DEVSTACK_DIR") if name in os.environ
        }
        environment |= {
            "SITE": str(self.path),
            "FISK_BIN_DIR": str(Path(sys.executable).parent),
        } | self.settings
        done = subprocess.run(
            ["bash", str(HERE / "drive.sh"), *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def options(self, name: str) -> dict[str, dict[str, str]]:
        """Give section → option → value of a file of the services, without sections that are empty."""
        parser = configparser.ConfigParser(interpolation=None, default_section="\0", strict=False)
        parser.read(self.path / "etc" / name)
        return {section: dict(parser[section]) for section in parser.sections() if len(parser[section])}

    @property
    def url(self) -> str:
        return f"unix://{self.home}/run/fiskd.sock"

    def answers(self) -> bool:
        """Whether a daemon runs there."""
        try:
            with RemoteEngine.open(self.url) as engine:
                engine.about()
        except FiskError:
            return False
        return True
