# SPDX-License-Identifier: Apache-2.0
"""What does not agree."""

from dataclasses import dataclass
from enum import StrEnum


class Fix(StrEnum):
    """How an orphan is removed."""

    DELETE = "delete"
    """its Fisk is deleted"""
    DROP = "drop"
    """its Fisk under construction is dropped"""
    DETACH = "detach"
    """its attachment is ended"""
    NONE = ""
    """not by us: something may be under way, or data is missing"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One disagreement: ``what`` it is, of ``kind`` and id ``own`` in OpenStack, and why it is one.

    ``target`` is the id of the Fisk or attachment that ``fix`` is for.
    """

    what: str
    kind: str
    own: str
    reason: str
    fix: Fix = Fix.NONE
    target: str = ""
    repaired: bool = False


ORPHAN = "orphan"
"""a Fisk whose resource is gone"""
UNFINISHED = "unfinished"
"""a Fisk that was never completed, or of which its service was never told"""
LEFTOVER = "leftover"
"""what a server had for the time of a rescue or resize"""
TWIN = "twin"
"""the bytes of an image that has no Fisk"""
ATTACHMENT = "attachment"
"""the use of a Fisk by nobody"""
MISSING = "missing"
"""a resource without its Fisk"""
STUCK = "stuck"
"""a resource that has been on its way for longer than the time of grace"""
