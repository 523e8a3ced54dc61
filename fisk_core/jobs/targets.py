# SPDX-License-Identifier: Apache-2.0
"""The job ``download``: a Fisk becomes a file of this host.

The file is written under a name that only this job uses, made durable, and named.  Before it is named its
inode is noted in the catalog: a run after a crash knows its own finished file by that, and anybody else's at
the same place by not being it.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from fisk_core.errors import AlreadyExists, from_oserror
from fisk_core.jobs import paths
from fisk_core.jobs.task import Task
from fisk_core.services import exporter


def run(task: Task) -> dict[str, Any]:
    """Give the path and its length in bytes."""
    path = task.arguments["target"]
    with paths.opened_folder(path, task.directories) as (folder, name):
        part = f".fisk-{task.job.id}.part"
        try:
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
            length = _named_before(task, folder, name)
            if length is None:
                length = _write(task, folder, part, name)
        except OSError as exc:
            raise from_oserror(exc, f"write {path}") from exc
    return {"path": path, "bytes": length}


def _named_before(task: Task, folder: int, name: str) -> int | None:
    """Give the length of the file if an earlier run of this job finished it; raises AlreadyExists."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if task.noted == [found.st_dev, found.st_ino]:
        return found.st_size
    if not task.arguments.get("overwrite", False):
        raise AlreadyExists(f"{task.arguments['target']} exists already")
    return None


def _write(task: Task, folder: int, part: str, name: str) -> int:
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        # By number in /proc: a program that is started to convert opens this very file.
        path = Path(f"/proc/{os.getpid()}/fd/{fd}")
        options = {key: task.arguments[key] for key in ("format", "compress") if key in task.arguments}
        fisk = task.engine.get(task.arguments["fisk_id"])
        exporter.write_file(task.engine, fisk, fd, path, progress=task.progress, **options)
        os.fsync(fd)
        found = os.fstat(fd)
        task.note([found.st_dev, found.st_ino])
        _name(folder, part, name, overwrite=task.arguments.get("overwrite", False))
        os.fsync(folder)
        return found.st_size
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=folder)


def _name(folder: int, part: str, name: str, *, overwrite: bool) -> None:
    if not overwrite:
        try:
            os.link(part, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            return
        except FileExistsError:
            raise
        except OSError:  # a file system without links: the best there is then is to look once more
            with suppress(FileNotFoundError):
                os.stat(name, dir_fd=folder, follow_symlinks=False)
                raise AlreadyExists(f"{name} exists already") from None
    os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
