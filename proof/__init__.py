# SPDX-License-Identifier: Apache-2.0
"""What Fisk promises, tried by force: power cuts, failing calls, damage, hostile peers, races, long runs."""
