# SPDX-License-Identifier: Apache-2.0
"""Commands that look at Fisks with the eyes of a cloud: ``fisk openstack …`` and ``openstack fisk …``."""
