# SPDX-License-Identifier: Apache-2.0
"""TLS of the NBD client: what to trust and who we are.

Certificates are always verified.  A connection for which TLS was asked never goes on without it.
"""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from fisk_core.errors import InvalidValue, NotFound, Unsupported


@dataclass(frozen=True, slots=True)
class Tls:
    """Credentials: X.509 (``ca``; ``cert`` and ``key`` when the server wants to know us) or a pre-shared key.

    ``ca`` None means the system's authorities.  ``hostname`` is what the server's certificate must be for,
    by default the host connected to (``localhost`` on a unix socket).  ``psk_file`` holds lines
    ``username:hexkey``, as nbdkit and ``psktool`` write them.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    hostname: str | None = None
    username: str | None = None
    psk_file: str | None = None

    @classmethod
    def from_directory(cls, folder: Path) -> "Tls":
        """Credentials in ``ca-cert.pem``, ``client-cert.pem``, ``client-key.pem``, as QEMU and libnbd do."""
        cert, key = folder / "client-cert.pem", folder / "client-key.pem"
        if not os.path.exists(cert):  # unlike Path's, it has an answer for what cannot be a path, too
            return cls(ca=str(folder / "ca-cert.pem"))
        return cls(ca=str(folder / "ca-cert.pem"), cert=str(cert), key=str(key))

    def context(self) -> ssl.SSLContext:
        """Raises NotFound or InvalidValue for bad files, Unsupported for PSK before Python 3.13."""
        if self.psk_file is not None:
            return _psk_context(self.username or "", self.psk_file)
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except FileNotFoundError as exc:
            raise NotFound(f"TLS credentials ({self.ca}, {self.cert}, {self.key}): {exc.strerror}") from exc
        except (ssl.SSLError, OSError, ValueError) as exc:
            raise InvalidValue(f"TLS credentials ({self.ca}, {self.cert}, {self.key}): {exc}") from exc
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def read_psk(path: str, username: str) -> tuple[str, bytes]:
    """Give (username, key) from a file of ``username:hexkey`` lines; an empty username takes the first."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise NotFound(f"TLS keys {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise InvalidValue(f"TLS keys {path}: {exc}") from exc
    for line in lines:
        name, colon, key = line.strip().partition(":")
        if colon and username in ("", name):
            try:
                return name, bytes.fromhex(key)
            except ValueError:
                raise InvalidValue(f"TLS keys {path}: the key of '{name}' is not hexadecimal") from None
    raise NotFound(f"TLS keys {path}: there is no user '{username}'")


def _psk_context(username: str, path: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    setter = getattr(context, "set_psk_client_callback", None)
    if setter is None:
        raise Unsupported("TLS with a pre-shared key needs Python 3.13; use certificates")
    user, key = read_psk(path, username)
    # With a pre-shared key the server proves itself by knowing the key: there is no certificate to verify.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("PSK")
    setter(lambda _hint: (user, key))
    return context
