# SPDX-License-Identifier: Apache-2.0
"""The numbers of the protocol."""

import errno

from fisk_core.dataplane import protocol as p


def test_errors_as_the_wire_calls_them():
    same = ("EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC", "EOVERFLOW", "ESHUTDOWN")
    assert [p.wire_error(getattr(errno, name)) for name in same] == [1, 5, 12, 22, 28, 75, 108]
    assert p.wire_error(errno.EOPNOTSUPP) == 95
    assert p.wire_error(errno.EROFS) == 1
    assert {p.wire_error(code) for code in (errno.EDQUOT, errno.EFBIG)} == {28}
    assert {p.wire_error(code) for code in (None, 0, errno.ENOENT, -1, 10_000)} == {5}
