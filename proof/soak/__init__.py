# SPDX-License-Identifier: Apache-2.0
"""For hours: clients that verify, everything an operator does, kills; nothing lost, leaked or growing."""
