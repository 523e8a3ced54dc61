# SPDX-License-Identifier: Apache-2.0
"""The verbs on Fisks that are one request each: made, changed, looked at.  See ``fisk_core.engine``."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from fisk_core.client.answers import decode, decode_all
from fisk_core.client.transport import Transport
from fisk_core.errors import InvalidValue, LimitExceeded, NotFound
from fisk_core.model import BLOCK_SIZE, PAGE_SIZE, Extent, Fisk, PoolInfo, Role, Route, TreeNode, Usage

PAGE = 1000
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@=-]{0,254}")
Fisks = list[Fisk]
Nodes = list[TreeNode]
PoolInfos = list[PoolInfo]


def path_of(ref: str, *more: str) -> str:
    """Give the path of a Fisk; raises NotFound for what cannot be one (and might lead elsewhere)."""
    if not _REF.fullmatch(ref):
        raise NotFound(f"there is no Fisk '{ref}'")
    return "/".join(("/fisks", quote(ref, safe=""), *more))


def items(answer: Any, key: str) -> Any:
    """Give the list in an answer, whether it is all of it or has a name."""
    return answer if isinstance(answer, list) else answer[key]


class FiskVerbs:
    """What a RemoteEngine can do with Fisks and pools."""

    transport: Transport

    def create(
        self,
        name: str,
        size: int,
        *,
        pool: str | None = None,
        role: str = Role.VOLUME,
        attributes: Mapping[str, str] | None = None,
        block_size: int = BLOCK_SIZE,
        page_size: int = PAGE_SIZE,
        id: str | None = None,
    ) -> Fisk:
        body = {"name": name, "size": size, "pool": pool, "role": role, "id": id or str(uuid4())}
        body |= {"attributes": labels(attributes), "block_size": block_size, "page_size": page_size}
        return decode(Fisk, self.transport.call("POST", "/fisks", json=body, again=True))

    def get(self, ref: str) -> Fisk:
        return decode(Fisk, self.transport.call("GET", path_of(ref)))

    def list(
        self,
        *,
        role: str | None = None,
        state: str | None = None,
        pool: str | None = None,
        attributes: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> Fisks:
        wanted: dict[str, Any] = {"role": role, "state": state, "pool": pool, "name": name}
        wanted["attribute"] = [f"{key}={value}" for key, value in (attributes or {}).items()]
        return [
            decode(Fisk, each)
            for page in self._pages("/fisks", wanted, "marker")
            for each in page["fisks"]
        ]  # fmt: skip

    def _pages(self, path: str, wanted: Mapping[str, Any], key: str) -> Iterator[Any]:
        """Give the pages of a long answer; ``key`` is the parameter that takes one's ``next``."""
        params: dict[str, Any] = {**wanted, "limit": PAGE}
        while True:
            try:
                page = self.transport.call("GET", path, params=params)
            except LimitExceeded:
                if params.pop("limit", None) is None:
                    raise
                continue  # this daemon gives less at once: let it choose
            yield page
            if page["next"] is None:
                return
            params[key] = page["next"]

    def set(
        self,
        ref: str,
        *,
        name: str | None = None,
        role: str | None = None,
        attributes: Mapping[str, str | None] | None = None,
        frozen: bool | None = None,
    ) -> Fisk:
        body = {"name": name, "role": role, "attributes": labels(attributes), "frozen": frozen}
        return decode(Fisk, self.transport.call("PATCH", path_of(ref), json=body))

    def snapshot(
        self,
        ref: str,
        name: str,
        *,
        role: str = Role.SNAPSHOT,
        attributes: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Fisk:
        body = {"name": name, "role": role, "attributes": labels(attributes), "id": id or str(uuid4())}
        return decode(Fisk, self.transport.call("POST", path_of(ref, "snapshots"), json=body, again=True))

    def group_snapshot(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        role: str = Role.SNAPSHOT,
        attributes: Sequence[Mapping[str, str] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> Fisks:
        if any(given is not None and len(given) != len(pairs) for given in (attributes, ids)):
            raise InvalidValue("a group snapshot takes as many ids and attributes as there are Fisks")
        if not pairs:
            return []
        given = zip(
            pairs, attributes or [None] * len(pairs), ids or [str(uuid4()) for _ in pairs], strict=True
        )
        members = [
            {"fisk": ref, "name": name, "attributes": labels(own), "id": each}
            for (ref, name), own, each in given
        ]
        body = {"snapshots": members, "role": role}
        answer = self.transport.call("POST", "/snapshots", json=body, again=True)
        return decode_all(Fisk, items(answer, "fisks"))

    def clone(
        self,
        ref: str,
        name: str,
        *,
        count: int = 1,
        role: str = Role.VOLUME,
        size: int | None = None,
        attributes: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Fisks:
        if id is None and count == 1:
            id = str(uuid4())
        body = {"name": name, "count": count, "role": role, "size": size, "attributes": labels(attributes)}
        path = path_of(ref, "clones")
        answer = self.transport.call("POST", path, json={**body, "id": id}, again=id is not None)
        return decode_all(Fisk, items(answer, "fisks"))

    def revert(self, ref: str, to: str) -> Fisk:
        return decode(Fisk, self.transport.call("POST", path_of(ref, "revert"), json={"to": to}))

    def resize(self, ref: str, size: int, *, shrink: bool = False) -> Fisk:
        body = {"size": size, "shrink": shrink}
        return decode(Fisk, self.transport.call("POST", path_of(ref, "resize"), json=body))

    def delete(self, *refs: str, force: bool = False) -> None:
        """Delete Fisks, all or none; raises NotFound for one that was not there to begin with."""
        # The daemon takes the deletion of what is not there for done; here that is a mistake.  By id it may
        # be sent again: what then has the name is another Fisk.
        ids = [self.get(ref).id for ref in refs]
        if ids:
            self.transport.call("POST", "/deletions", json={"refs": ids, "force": force}, again=True)

    # Looking

    def diff(self, a: str, b: str) -> Iterator[Extent]:
        other = self.get(b).id
        for page in self._pages(path_of(a, "diff"), {"to": other}, "offset"):
            yield from decode_all(Extent, page["extents"])

    def tree(self, ref: str | None = None) -> Nodes:
        answer = self.transport.call("GET", "/tree" if ref is None else path_of(ref, "tree"))
        roots: Nodes = []
        above: Nodes = []  # the way from the root down to the node before
        for each in answer["nodes"]:
            node = TreeNode(decode(Fisk, each["fisk"]))
            del above[each["depth"] :]
            (above[-1].children if above else roots).append(node)
            above.append(node)
        return roots

    def route(self, ref: str, offset: int) -> Route:
        return decode(Route, self.transport.call("GET", path_of(ref, "route"), params={"offset": offset}))

    def usage(self, ref: str) -> Usage:
        return decode(Usage, self.transport.call("GET", path_of(ref, "usage")))

    # Pools

    def create_pool(
        self, name: str, driver: str = "file", options: Mapping[str, Any] | None = None
    ) -> PoolInfo:
        body = {"name": name, "driver": driver, "options": labels(options)}
        return decode(PoolInfo, self.transport.call("POST", "/pools", json=body))

    def pools(self) -> PoolInfos:
        return decode_all(PoolInfo, items(self.transport.call("GET", "/pools"), "pools"))

    def pool(self, name: str) -> PoolInfo:
        return decode(PoolInfo, self.transport.call("GET", _pool(name)))

    def set_pool(self, name: str, options: Mapping[str, Any]) -> PoolInfo:
        body = {"options": dict(options)}
        return decode(PoolInfo, self.transport.call("PATCH", _pool(name), json=body, again=True))


def _pool(name: str) -> str:
    if not _REF.fullmatch(name):
        raise NotFound(f"there is no pool '{name}'")
    return f"/pools/{quote(name, safe='')}"


def labels(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if values is None else dict(values)
