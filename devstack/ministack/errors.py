# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, as one clear line."""


class MinistackError(Exception):
    """Something could not be installed, started or asked; the message is for whoever typed the command."""
