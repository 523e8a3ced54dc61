# SPDX-License-Identifier: Apache-2.0
"""The ``fisk`` command, and the same commands as a plugin of the OpenStack client.

People type it: modules here import the engine, numpy and rich only inside the functions that need them.
"""
