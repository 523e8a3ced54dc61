# SPDX-License-Identifier: Apache-2.0
"""Workers: what each does at this moment."""

from dataclasses import dataclass

from fisk_core.api.identity import READER
from fisk_core.api.operation import Operations
from fisk_core.api.services import Given
from fisk_core.supervision import WorkerStatus

router = Operations("workers")


@dataclass(frozen=True, slots=True)
class WorkerList:
    """The workers of this host."""

    workers: list[WorkerStatus]


@router.operation("GET", "/workers", rule="workers:list", role=READER, gives=WorkerList)
def list_workers(services: Given) -> WorkerList:
    """List the workers of this host, with their metrics."""
    return WorkerList(services.supervisor.workers())
