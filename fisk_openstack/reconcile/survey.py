# SPDX-License-Identifier: Apache-2.0
"""Both sides, as they are now: Fisks first, then what the services know.

In this order a resource that is being made is seen with its Fisk or not at all; one that is being removed may
be missed by its service and still have its Fisk, which is what the time of grace, and a second look before
anything is done, are for.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fisk_core.client import RemoteEngine
from fisk_core.model import Attachment, Fisk, State
from fisk_openstack.cloud import Cloud, Resource
from fisk_openstack.labels import PROJECT, Kind
from fisk_openstack.things import kind_of

SERVICES = (Kind.IMAGE, Kind.VOLUME, Kind.SNAPSHOT, Kind.BACKUP, Kind.DISK)


@dataclass(frozen=True)
class Survey:
    """``fisks`` are those with a label of OpenStack, ``builds`` those under construction.

    ``connections`` is id of a Fisk → how many clients its worker on the daemon's host has.
    """

    fisks: Sequence[Fisk]
    builds: Sequence[Fisk]
    attachments: Sequence[Attachment]
    connections: Mapping[str, int]
    resources: Mapping[Kind, Mapping[str, Resource]]
    projects: frozenset[str]
    volume_hosts: frozenset[str]
    pools: frozenset[str]
    here: str
    """the daemon's host, if that is this one, else nothing"""
    now: datetime
    grace: timedelta
    any_project: bool

    def settled(self, moment: datetime) -> bool:
        """Whether what was done then is longer ago than the time of grace."""
        return self.now - moment >= self.grace

    def owned(self, fisk: Fisk) -> bool:
        """Whether a Fisk is one of this cloud's: its project is, or all Fisks are."""
        return self.any_project or fisk.attributes.get(PROJECT) in self.projects


def survey(engine: RemoteEngine, cloud: Cloud, grace: timedelta, *, any_project: bool = False) -> Survey:
    """Look at both sides; raises Forbidden for who is no administrator, and what either side raises.

    ``any_project`` takes Fisks of projects the cloud does not have for its own, too.
    """
    now = datetime.now(UTC)
    projects = cloud.projects()
    fisks = [each for each in engine.list() if kind_of(each)]
    builds = [each for each in engine.list(state=State.BUILDING) if kind_of(each)]
    host = str(engine.about()["host"])
    return Survey(
        fisks=fisks,
        builds=builds,
        attachments=engine.attachments(),
        connections=_connections(engine),
        resources={kind: cloud.resources(kind) for kind in SERVICES},
        projects=projects,
        volume_hosts=cloud.volume_hosts(),
        pools=frozenset(each.name for each in engine.pools()),
        here=host if host == socket.gethostname() else "",
        now=now,
        grace=grace,
        any_project=any_project,
    )


def _connections(engine: RemoteEngine) -> dict[str, int]:
    # A worker that does not say how many may have some.
    told = {each["fisk_id"]: each.get("connections") for each in engine.workers()}
    return {fisk: 1 if count is None else int(count) for fisk, count in told.items()}


def lives(consumer: str, here: str) -> bool | None:
    """Say whether the process ``HOST:PID`` runs; None where that cannot be told."""
    host, colon, number = consumer.rpartition(":")
    if not colon or not here or host != here or not number.isdecimal():
        return None
    return os.path.exists(f"/proc/{number}")
