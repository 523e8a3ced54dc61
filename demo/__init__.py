# SPDX-License-Identifier: Apache-2.0
"""The demonstration: a small Linux disk through everything one Fisk can be.  ``python -m demo``."""
