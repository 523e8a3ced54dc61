# SPDX-License-Identifier: Apache-2.0
"""The block map: block → layer, in memory, in a blob, and as a log of changes."""

from fisk_core.blockmap.blob import BlobHeader
from fisk_core.blockmap.diff import diff
from fisk_core.blockmap.log import LogHeader, LogWriter
from fisk_core.blockmap.log import create as create_log
from fisk_core.blockmap.pagemap import BlockMap
from fisk_core.blockmap.source import SEGMENT_PAGES, Geometry
from fisk_core.blockmap.stored import (
    consolidate,
    empty_map,
    heal,
    load_live_map,
    load_map,
    open_sums,
    owned_blocks,
    read_blob_header,
    read_log_header,
    replay,
    seal,
    stored_segments,
    verify_blob,
)

__all__ = [
    "SEGMENT_PAGES",
    "BlobHeader",
    "BlockMap",
    "Geometry",
    "LogHeader",
    "LogWriter",
    "consolidate",
    "create_log",
    "diff",
    "empty_map",
    "heal",
    "load_live_map",
    "load_map",
    "open_sums",
    "owned_blocks",
    "read_blob_header",
    "read_log_header",
    "replay",
    "seal",
    "stored_segments",
    "verify_blob",
]
