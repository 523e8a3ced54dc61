# SPDX-License-Identifier: Apache-2.0
"""Users, roles and addresses of the services in Keystone."""

from openstack.connection import Connection

from devstack.ministack.place import Place
from devstack.ministack.processes import call

SERVICES = {
    "glance": ("image", ""),
    "placement": ("placement", ""),
    "cinder": ("block-storage", "/v3/%(project_id)s"),
    "nova": ("compute", "/v2.1"),
    "neutron": ("network", ""),
}
"""user and name of a service → its type, and the path of its address"""


def bootstrap(place: Place) -> None:
    """Make the keys and the first user of Keystone."""
    folder = place.etc / "keystone"
    manage = [place.venv / "bin" / "keystone-manage", "--config-dir", folder]
    log = place.log / "keystone-manage.out"
    owner = ["--keystone-user", "root", "--keystone-group", "root"]
    for key in ("fernet", "credential"):
        (folder / key).mkdir(mode=0o700, exist_ok=True)
        call([*manage, f"{key}_setup", *owner], log=log)
    address = place.url("keystone", "/v3")
    where = [
        word for kind in ("public", "internal", "admin") for word in (f"--bootstrap-{kind}-url", address)
    ]
    call(
        [
            *manage,
            "bootstrap",
            "--bootstrap-password",
            place.secret,
            "--bootstrap-region-id",
            "RegionOne",
            *where,
        ],
        log=log,
    )


def connect(place: Place) -> Connection:
    """Give a connection as the user ``admin``."""
    return Connection(
        auth_url=place.url("keystone", "/v3"),
        username="admin",
        password=place.secret,
        project_name="admin",
        user_domain_id="default",
        project_domain_id="default",
        region_name="RegionOne",
    )


def register(place: Place, cloud: Connection) -> None:
    """Make the project, users and addresses of all services, those that are missing."""
    identity = cloud.identity
    roles = {role.name: role for role in identity.roles()}
    project = identity.find_project("service") or identity.create_project(name="service", domain_id="default")
    users = {user.name for user in identity.users()}
    known = {service.name for service in identity.services()}
    for name, (kind, path) in SERVICES.items():
        if name not in users:
            user = identity.create_user(name=name, password=place.secret, default_project_id=project.id)
            for role in ("admin", "service"):
                identity.assign_project_role_to_user(project, user, roles[role])
        if name not in known:
            service = identity.create_service(name=name, type=kind)
            for interface in ("public", "internal", "admin"):
                identity.create_endpoint(
                    service_id=service.id,
                    interface=interface,
                    url=place.url(name, path),
                    region_id="RegionOne",
                )
