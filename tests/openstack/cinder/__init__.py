# SPDX-License-Identifier: Apache-2.0
"""The Cinder driver on a real Cinder."""
