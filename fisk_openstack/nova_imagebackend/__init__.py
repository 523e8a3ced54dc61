# SPDX-License-Identifier: Apache-2.0
"""Disks of Nova's servers as Fisks, beside an unpatched Nova.

``[DEFAULT] config_source = fisk`` loads ``config_source`` when the configuration is read, before anything of
Nova's libvirt driver is imported; that makes ``nova.virt.fisk`` importable.  ``compute_driver =
fisk.FiskLibvirtDriver`` then imports ``driver``, which registers image backend and volume driver.
"""
