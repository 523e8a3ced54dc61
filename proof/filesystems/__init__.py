# SPDX-License-Identifier: Apache-2.0
"""Real file systems, and a guest, on Fisks whose workers are killed."""
