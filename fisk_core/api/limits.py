# SPDX-License-Identifier: Apache-2.0
"""Every limit of the API.  Passing one is answered with a status of 400 to 499, whatever the request was.

Those of ``Limits`` are options; the others are part of the API and stand in its OpenAPI document.
"""

from dataclasses import dataclass

MAX_NAME = 255
MAX_REF = 255
MAX_ROLE = 64
MAX_ATTRIBUTES = 256
MAX_KEY = 255
MAX_VALUE = 64 << 10
MAX_PAGE = 10_000
"""what a page may be asked to hold at all; ``Limits.max_page`` may be less"""
MAX_CLONES = 1000
MAX_GROUP = 200
"""Fisks of one group snapshot, deletion or scrub"""
MAX_TREE = 20_000
MAX_WAIT = 60
"""seconds a request may wait for a range lock"""
MAX_WAITERS = 64
"""requests that do so at once"""
MAX_INT = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one daemon takes on; bytes, seconds and numbers."""

    max_body: int = 1 << 20
    """bytes of a request's body"""
    max_head: int = 32 << 10
    """bytes of a request's line and headers"""
    max_page: int = 1000
    """objects in one answer"""
    max_requests: int = 256
    """requests under way at once"""
    max_streams: int = 64
    """event streams at once"""
    max_connections: int = 512
    max_jobs: int = 100
    """jobs that wait or run"""
    read_seconds: int = 30
    """how long a request may take to arrive"""
    threads: int = 32
    """how many requests are worked on at once; the others wait"""
