# SPDX-License-Identifier: Apache-2.0
"""From a row of the catalog to the header its pool gets."""

from collections.abc import Mapping

from fisk_core.catalog import Record
from fisk_core.pools.headers import FiskHeader, decode, encode, name_of

__all__ = ["FiskHeader", "decode", "encode", "header_of", "name_of"]


def header_of(record: Record, labels: Mapping[str, str], version: int) -> FiskHeader:
    return FiskHeader(
        id=record.id,
        name=record.name,
        size=record.size,
        state=record.state,
        role=record.role,
        attributes=dict(labels),
        parent_id=record.parent_id,
        block_size=record.block_size,
        page_size=record.page_size,
        created_at=record.created_at.isoformat(),
        map_id=record.map_id,
        opened=record.opened,
        base_id=record.base_id,
        base_size=record.base_size,
        revision=record.revision,
        version=version,
    )
