# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes: LUKS, whose header and content QEMU writes straight into the Fisk over NBD.

Neither device-mapper nor a temporary file is needed.  What is encrypted is the volume as guests see it; to
Fisk it is bytes like any, and a clone or a snapshot of an encrypted volume shares its blocks and has its key.
The header takes some of the volume: guests see about 2 MiB less than its size.

With other providers (``luks2``, ``plain``) nothing is written: who attaches such a volume first formats it.
"""

import re
import tempfile
from binascii import hexlify
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from castellan import key_manager
from cinder import exception, utils
from cinder.image import image_utils
from cinder.volume import volume_utils
from os_brick.encryptors import LEGACY_PROVIDER_CLASS_TO_FORMAT_MAP, LUKS
from oslo_concurrency import processutils
from oslo_config import cfg

from fisk_core.model import Fisk
from fisk_openstack.cinder.base import GIB
from fisk_openstack.cinder.errors import cinder_errors
from fisk_openstack.cinder.images import Images
from fisk_openstack.labels import Kind, search

_STRETCHING = 10
"""Milliseconds of stretching: the passphrase is a key of random bytes, which nobody can guess anyway."""
_SECRET = "fisk"  # the name of the key in one call of qemu-img
_ATTEMPTS = 20
"""QEMU first measures how fast it stretches, and gives up ("Unable to get accurate CPU usage") if it sees no
time pass, as happens where the kernel counts a thread's time in ticks: two times in five were seen."""


class Encryption(Images):
    """Volumes of types with LUKS."""

    def create_volume(self, volume: Any) -> None:
        """Make an empty volume; a LUKS header is written to an encrypted one."""
        super().create_volume(volume)
        if self._encrypted_here(volume):
            with cinder_errors(volume.id):
                fisk = self._volume(volume)
                with self._key(volume) as key, self._written(fisk) as uri:
                    _format(key, uri, fisk.size)

    def copy_image_to_encrypted_volume(
        self, context: Any, volume: Any, image_service: Any, image_id: str, disable_sparse: bool = False
    ) -> None:
        """Encrypt an image into a volume; raises ImageTooBig."""
        if not self._encrypted_here(volume):
            super().copy_image_to_encrypted_volume(context, volume, image_service, image_id, disable_sparse)
            return
        with (
            cinder_errors(volume.id),
            self._image(context, volume, image_service, image_id) as source,
            self._key(volume) as key,
            self._written(self._volume(volume)) as uri,
        ):
            _convert(key, source, uri, image_id)

    def _encrypted_here(self, volume: Any) -> bool:
        """Say whether a volume is encrypted in the way that QEMU knows."""
        if not volume.encryption_key_id:
            return False
        provider = self.db.volume_encryption_metadata_get(volume.obj_context, volume.id).get("provider")
        return bool(LEGACY_PROVIDER_CLASS_TO_FORMAT_MAP.get(provider, provider) == LUKS)

    @contextmanager
    def _key(self, volume: Any) -> Iterator["_Key"]:
        """Give the options of qemu-img that have the key of a volume, good until the end of the block."""
        encryption = volume_utils.check_encryption_provider(volume, volume.obj_context)
        secret = key_manager.API(cfg.CONF).get(volume.obj_context, encryption["encryption_key_id"])
        with tempfile.NamedTemporaryFile(prefix="fisk-key-") as file:  # only we may read it
            file.write(hexlify(secret.get_encoded()))
            file.flush()
            yield _Key(file.name, image_utils.decode_cipher(encryption["cipher"], encryption["key_size"]))

    @contextmanager
    def _written(self, fisk: Fisk) -> Iterator[str]:
        """Give an NBD URI to write a Fisk at."""
        attachment = self.engine.attach(fisk.id, consumer="cinder-volume: encryption")
        try:
            yield next(uri for uri in attachment.uris if not uri.startswith("nbds"))
        finally:
            self.engine.detach(attachment.id)

    @contextmanager
    def _image(self, context: Any, volume: Any, image_service: Any, image_id: str) -> Iterator[str]:
        """Give where the raw blocks of an image can be read."""
        fisk = search(self.engine, Kind.IMAGE, image_id)
        if fisk is not None:
            with self.engine.served(fisk) as uri:
                yield uri
            return
        with image_utils.temporary_file(prefix="fisk-image-") as path:
            blocks = self.configuration.volume_dd_blocksize
            image_utils.fetch_to_raw(context, image_service, image_id, path, blocks, size=volume.size)
            yield path


class _Key:
    """A key in a file, and the cipher it is for."""

    def __init__(self, path: str, cipher: dict[str, str]) -> None:
        self.secret = ("--object", f"secret,id={_SECRET},format=raw,file={path}")
        names = {"cipher_alg": "cipher-alg", "cipher_mode": "cipher-mode", "ivgen_alg": "ivgen-alg"}
        self.options = ",".join(
            [
                f"key-secret={_SECRET}",
                f"iter-time={_STRETCHING}",
                *(f"{names[key]}={value}" for key, value in cipher.items()),
            ]
        )


def _format(key: _Key, uri: str, size: int) -> None:
    """Write a header into ``size`` bytes at a URI."""
    told = _stretching("measure", "-O", "luks", *key.secret, "-o", key.options, "--size", str(GIB))
    header = int(re.findall(r"required size: (\d+)", told)[0]) - GIB
    _stretching("create", "-q", "-f", "luks", *key.secret, "-o", key.options, uri, str(size - header))


def _stretching(*words: str) -> str:
    """Have qemu-img do what takes a stretched key; gives what it says."""
    return str(utils.execute("qemu-img", *words, attempts=_ATTEMPTS, delay_on_retry=True)[0])


def _server(uri: str) -> Iterator[str]:
    """Give the options of QEMU for an NBD URI."""
    parts = urlsplit(uri)
    path = parse_qs(parts.query).get("socket", [""])[0]
    options = {"export": unquote(parts.path.removeprefix("/"))}
    if path:
        options |= {"server.type": "unix", "server.path": path}
    else:
        options |= {
            "server.type": "inet",
            "server.host": parts.hostname or "",
            "server.port": str(parts.port),
        }
    for key, value in options.items():
        yield f"file.{key}={value.replace(',', ',,')}"


def _convert(key: _Key, source: str, uri: str, image_id: str) -> None:
    """Encrypt raw blocks into a volume that has a header; raises ImageTooBig, ImageUnacceptable."""
    target = ",".join((f"driver=luks,key-secret={_SECRET},file.driver=nbd", *_server(uri)))
    try:
        utils.execute(
            "qemu-img", "convert", "-n", "-f", "raw", *key.secret, source, "--target-image-opts", target
        )
    except processutils.ProcessExecutionError as problem:
        if "is smaller than" in problem.stderr or "output file is smaller" in problem.stderr:
            raise exception.ImageTooBig(image_id=image_id) from problem
        raise exception.ImageUnacceptable(image_id=image_id, reason=problem.stderr) from problem
