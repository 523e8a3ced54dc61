# SPDX-License-Identifier: Apache-2.0
"""The HTTP face of the engine: REST under ``/v1``, events, metrics, and who may do what.

Only ``fiskd`` imports this package; nothing that works without a daemon does.
"""
