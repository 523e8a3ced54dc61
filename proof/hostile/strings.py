# SPDX-License-Identifier: Apache-2.0
"""Words, numbers and documents that no program likes to be given."""

import json
import random
from typing import Any

_CLASSIC = (
    "", " ", "\0", "a\0b", "..", "../../etc/passwd", "/etc/passwd", "a/b", "a\\b", ".", "-", "--help", "-rf",
    "a\nINJECTED 2026 ERROR fisk forged", "a\r\nX-Injected: yes\r\n\r\n",
    "\nevent: injected\ndata: x\n\n", "\x1b[2J\x1b[31mred\x1b]0;title\x07", "\x9b31m", "\x08\x08\x08",
    "\u202egpj.exe", "\u2066a\u2069", "\u2028x", "e\u0301", "\u00e9", "\ufb01", "\u212b", "\uff21\uff22",
    "\u0131", "\u00df", "\U0001f9ea" * 20, "a\u0300" * 200, "\ufeffa", "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>', "{{7*7}}", "${jndi:x}", "%s%n%x", "{0}{a.b}", "'; DROP TABLE fisks; --",
    '"', "'", "`id`", "$(id)", "a;b|c&d", "*", "?", "[a-z]", "%2e%2e%2f", "%00", "%", "con", "NUL", "a" * 255,
    "a" * 256, "a" * 4096, "\u00e9" * 255, "00000000-0000-0000-0000-000000000000",
    "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "1e400", "NaN", "Infinity", "-1", "0x10", "1_000", "\u0663",
    "9" * 5000, "true", "null", "=1+1", "+1", "@x", "auto", "never", "2026-13-45T99:99:99Z",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "json:{}", "unix:///etc/passwd",
    "nbd://127.0.0.1:1/x", "file:///etc/passwd",
)  # fmt: skip
_LONG = ("x" * (1 << 20), "\x1b" * 70_000, "a\n" * 40_000)
_NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 511, 512, 513, 1 << 20, 1 << 31, 1 << 40, (64 << 40) + 512, 1 << 53, (1 << 63) - 1, 1 << 63,
    1 << 64, 10**40, 0.5, 1e308, float("nan"), float("inf"), -float("inf"), -0.0, True, False,
)  # fmt: skip


def word(chance: random.Random) -> str:
    """Give a string: one of the classics, several of them, or characters by chance."""
    kind = chance.randrange(20)
    if kind < 11:
        return chance.choice(_CLASSIC)
    if kind < 14:
        return chance.choice(_CLASSIC)[:300] + chance.choice(_CLASSIC)[:300]
    if kind == 14 and chance.random() < 0.1:
        return chance.choice(_LONG)
    top = chance.choice((0x20, 0x7F, 0x100, 0x3000, 0x110000))
    made = (chr(chance.randrange(top)) for _ in range(chance.choice((1, 3, 10, 60))))
    return "".join(each for each in made if not 0xD800 <= ord(each) < 0xE000)


def value(chance: random.Random, depth: int = 0) -> Any:
    """Give any JSON value."""
    kind = chance.randrange(10)
    if kind < 4:
        return word(chance)
    if kind < 7 or depth > 3:
        return chance.choice(_NUMBERS)
    if kind == 7:
        return None
    if kind == 8:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {word(chance): value(chance, depth + 1) for _ in range(chance.randrange(4))}


def document(chance: random.Random, sensible: dict[str, Any]) -> bytes:
    """Give a body: a sensible one with a field or two that are not, or JSON that is hardly any."""
    if chance.random() < 0.08:
        return _odd(chance)
    body = dict(sensible)
    for _ in range(chance.choice((1, 1, 1, 2))):
        key = chance.choice([*body, *body, word(chance)]) if body else word(chance)
        if isinstance(body.get(key), dict) and chance.random() < 0.7:
            body[key] = {word(chance) if chance.random() < 0.6 else "label": word(chance)}
        elif isinstance(body.get(key), str) and chance.random() < 0.7:
            body[key] = word(chance)
        else:
            body[key] = value(chance)
    text = json.dumps(body, ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.03:
        text = text.replace("a", "\\ud800", 1)
    return text.encode("utf-8", "surrogatepass")


def _odd(chance: random.Random) -> bytes:
    deep = chance.choice((50, 500, 5000, 100_000))
    return chance.choice(
        (
            b"[" * deep, b'{"a":' * deep, b'{"name":"a","name":"b","size":1048576,"size":0}', b"\xff\xfe{}",
            b'{"name":"\xff","size":512}', b'{"name":"a","size":' + b"9" * 5000 + b"}", b"null", b"[]", b'""',
            b'{"name":"a","size":1e99999}', b"{} {}", b"", b"\0", b'\xef\xbb\xbf{"name":"bom","size":512}',
            b'{"name":"a","size":NaN}', b'{"__proto__":{"a":1}}', b'{"size":-0}',
            b"{" + b" " * 200_000 + b"}",
        )
    )  # fmt: skip
