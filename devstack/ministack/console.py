# SPDX-License-Identifier: Apache-2.0
"""What a command tells whoever typed it."""


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)
