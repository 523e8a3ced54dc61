# SPDX-License-Identifier: Apache-2.0
"""Text of strangers on our terminals and in our logs."""


def printable(text: str) -> str:
    """Give ``text`` with everything escaped that does more than show a character.

    Control characters, line ends, escape sequences and what changes the direction of writing come as in a
    Python string: names and values of others then neither drive a terminal nor begin a line of their own.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )
