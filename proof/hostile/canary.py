# SPDX-License-Identifier: Apache-2.0
"""Things of the host that an image must not reach: files that tell when they are opened, and a port."""

import ctypes
import os
import socket
from pathlib import Path

_IN_OPEN, _IN_ACCESS = 0x20, 0x1
_libc = ctypes.CDLL(None, use_errno=True)


class Canaries:
    """Secret files in ``folder``, watched, and a port of this host at which nobody may call."""

    def __init__(self, folder: Path) -> None:
        self.marker = b"canary:" + os.urandom(9).hex().encode() + b"\n"
        self.files = [folder / name for name in ("secret", "secret.raw", "secret.qcow2")]
        self._watch = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for path in self.files:
            path.write_bytes(self.marker * 8192)
            if _libc.inotify_add_watch(self._watch, os.fsencode(path), _IN_OPEN | _IN_ACCESS) < 0:
                raise OSError(ctypes.get_errno(), f"watch {path}")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    def touched(self) -> bool:
        """Say whether a file was opened, or somebody called, since the last look."""
        found = False
        try:
            while os.read(self._watch, 4096):
                found = True
        except BlockingIOError:
            pass
        try:
            self._listener.accept()[0].close()
            found = True
        except BlockingIOError:
            pass
        return found

    def names(self) -> list[str]:
        """Give the ways in which a header may name them."""
        path, port = str(self.files[0]), self.port
        return [
            path, f"file:{path}", f"raw:{path}", f"../{self.files[0].name}", self.files[0].name,
            f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{path}"}}}}',
            f'json:{{"driver":"nbd","host":"127.0.0.1","port":"{port}"}}',
            f"nbd:127.0.0.1:{port}", f"nbd://127.0.0.1:{port}/x", f"http://127.0.0.1:{port}/x",
            f"ssh://127.0.0.1:{port}/x", f"fat:{self.files[0].parent}", "/dev/zero", "/proc/self/environ",
            "/etc/passwd", f"vvfat:rw:{self.files[0].parent}", f"iscsi://127.0.0.1:{port}/a/0",
        ]  # fmt: skip

    def close(self) -> None:
        os.close(self._watch)
        self._listener.close()
