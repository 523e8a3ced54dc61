# SPDX-License-Identifier: Apache-2.0
"""The configuration files, from the templates in ``etc``."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from devstack.ministack.hosts import ComputeHost
from devstack.ministack.place import PORTS, Place

FILES = {
    "keystone.conf.j2": "keystone/keystone.conf",
    "placement.conf.j2": "placement/placement.conf",
    "glance-api.conf.j2": "glance/glance-api.conf",
    "cinder.conf.j2": "cinder/cinder.conf",
    "neutron.conf.j2": "neutron/neutron.conf",
    "nova.conf.j2": "nova/nova.conf",
    "rabbitmq.conf.j2": "rabbitmq.conf",
}
"""template → file below the place's ``etc``"""


def of_host(host: ComputeHost) -> dict[str, str]:
    """Give the same for what each host has."""
    return {
        "nova-compute.conf.j2": f"nova-compute{host.suffix}/nova.conf",
        "libvirtd.conf.j2": f"libvirt{host.suffix}/libvirtd.conf",
        "qemu.conf.j2": f"libvirt{host.suffix}/qemu.conf",
    }


def values(place: Place) -> dict[str, object]:
    """Give what templates may speak of."""
    return {
        "backend": place.backend,
        "computes": place.computes,
        "data": place.data,
        "etc": place.etc,
        "log": place.log,
        "ports": PORTS,
        "rabbit": f"rabbit://guest:guest@127.0.0.1:{PORTS['rabbitmq']}/",
        "secret": place.secret,
        "url": place.url,
        "venv": place.venv,
        "run": place.run,
    }


def write(place: Place, files: Mapping[str, str], more: Mapping[str, object]) -> None:
    """Write files, template → name; ``more`` are values of the host and of the storage."""
    for template, name in files.items():
        write_one(place, template, name, more)


def copy_paste(place: Place) -> None:
    """Put the file beside Nova's configuration in which it finds its own API."""
    paste = place.etc / "nova" / "api-paste.ini"
    paste.write_bytes((place.venv / "etc" / "nova" / "api-paste.ini").read_bytes())


def write_one(place: Place, template: str, name: str, more: Mapping[str, object]) -> None:
    """Write one file below the place's ``etc``, to be read by its owner only."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("etc")),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # these are no web pages
    )
    path = place.etc / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(templates.get_template(template).render(values(place), **more))
