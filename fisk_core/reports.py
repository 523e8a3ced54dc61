# SPDX-License-Identifier: Apache-2.0
"""What looking after things found: plain values, the same from an embedded engine and from a daemon."""

from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """Whether data may be affected."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(slots=True)
class Problem:
    """One violated invariant: ``kind`` is a short word, ``subject`` an id or name."""

    severity: Severity
    kind: str
    subject: str
    message: str
    repaired: bool = False


@dataclass(slots=True)
class CheckReport:
    """What was looked at, and what is wrong with it."""

    fisks: int = 0
    maps: int = 0
    layers: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        """What is wrong and was not repaired."""
        return [each for each in self.problems if each.severity is Severity.ERROR and not each.repaired]

    @property
    def warnings(self) -> list[Problem]:
        return [each for each in self.problems if each.severity is Severity.WARNING and not each.repaired]

    @property
    def ok(self) -> bool:
        """No error is left; there may be warnings."""
        return not self.errors


@dataclass(slots=True)
class ScrubReport:
    """Maps and layers read, bytes of data read and how many of those had a checksum to compare."""

    maps: int = 0
    layers: int = 0
    bytes_read: int = 0
    bytes_compared: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def blame(self, kind: str, subject: str, message: str) -> None:
        self.problems.append(Problem(Severity.ERROR, kind, subject, message))


@dataclass(slots=True)
class CollectReport:
    """Bytes given back (or to be, in a dry run), layers looked at, and those left for later with why."""

    reclaimed: int = 0
    layers: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False


@dataclass(slots=True)
class RescanReport:
    """Names of the Fisks that are back, of those recovered without a header, and what could not be used."""

    pool: str
    fisks: list[str] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
