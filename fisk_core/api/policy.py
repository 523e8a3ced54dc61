# SPDX-License-Identifier: Apache-2.0
"""Who may do what: oslo.policy, with one documented rule for each operation.

By default a rule wants the role its operation names; a policy file may want another, or the ``name`` of a
caller (``uid:1000``, ``token:backup``).  Decisions depend on the caller and the rule alone, so they are
remembered until the policy is read again.
"""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from oslo_policy import policy

from fisk_core.api.identity import Caller
from fisk_core.errors import Forbidden, InvalidValue

_MAX_REMEMBERED = 8192
_NO_FILE = "none"


class Guard:
    """Answers whether a caller may; may be used by several threads."""

    def __init__(self, conf: Any, rules: Sequence[policy.RuleDefault], file: Path | None = None) -> None:
        """Read the policy; raises InvalidValue when the file makes no sense."""
        self._conf, self._rules, self._file = conf, rules, file
        self._lock = threading.Lock()
        self._decided: dict[tuple[Caller, str], bool] = {}
        self._enforcer = self._read()

    def reload(self) -> None:
        """Read the policy again; raises InvalidValue, and then the one in force stays."""
        enforcer = self._read()
        with self._lock:
            self._enforcer, self._decided = enforcer, {}

    def _read(self) -> policy.Enforcer:
        # The enforcer looks at the file's time stamp at every question if it may; ours is read when told to.
        file = self._file if self._file is not None and self._file.exists() else None
        enforcer = policy.Enforcer(self._conf, policy_file=str(file or _NO_FILE))
        enforcer.suppress_default_change_warnings = True
        enforcer.register_defaults([_copy(rule) for rule in self._rules])
        try:
            if file is not None:
                _require_mapping(file)
            enforcer.load_rules()
            enforcer.check_rules(raise_on_violation=True)
        except (policy.InvalidDefinitionError, OSError, ValueError, yaml.YAMLError) as exc:
            raise InvalidValue(f"the policy {self._file}: {exc}") from exc
        enforcer.use_conf = False
        return enforcer

    def allows(self, caller: Caller, rule: str) -> bool:
        key = (caller, rule)
        known = self._decided.get(key)
        if known is None:
            with self._lock:
                credentials = {"roles": caller.roles, "name": caller.name, "user_id": caller.name}
                known = bool(self._enforcer.enforce(rule, {}, credentials))
                if len(self._decided) >= _MAX_REMEMBERED:
                    self._decided.clear()
                self._decided[key] = known
        return known

    def require(self, caller: Caller, rule: str) -> None:
        """Raise Forbidden unless ``caller`` may."""
        if not self.allows(caller, rule):
            role = caller.role or "none"
            raise Forbidden(f"{caller.name} (role: {role}) is not allowed to do this ({rule})")


def _require_mapping(path: Path) -> None:
    found = yaml.safe_load(path.read_text())
    if found is not None and not isinstance(found, dict):
        raise ValueError("not a mapping of rules")
    unreadable = [name for name, check in (found or {}).items() if not isinstance(check, str)]
    if unreadable:
        raise ValueError(f"the check of {unreadable[0]!r} is not text")


def _copy(rule: policy.RuleDefault) -> policy.RuleDefault:
    """An enforcer writes into the rules it is given."""
    return policy.RuleDefault(rule.name, rule.check_str, rule.description)


def documented(operations: Iterable[tuple[str, str, str, str, str]]) -> list[policy.DocumentedRuleDefault]:
    """Make the rules of operations: (rule, role, what it does, method, path)."""
    found: dict[str, tuple[str, str, list[policy.Operation]]] = {}
    for rule, role, what, method, path in operations:
        _, _, where = found.setdefault(rule, (role, what, []))
        where.append({"method": method, "path": path})
    return [
        policy.DocumentedRuleDefault(rule, f"role:{role}", f"{what}.", where)
        for rule, (role, what, where) in sorted(found.items())
    ]
