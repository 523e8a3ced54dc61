# SPDX-License-Identifier: Apache-2.0
"""Real OpenStack services on the loopback interface of one machine, without git, systemd or containers."""
