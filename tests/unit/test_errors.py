# SPDX-License-Identifier: Apache-2.0
"""The error tree: every face of every class, and what crosses from the system or another process."""

import errno

import pytest

from fisk_core import errors

LEAVES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.FiskError) and kind is not errors.FiskError
]


def test_exit_statuses_are_distinct_and_leave_room_for_the_shells_own():
    statuses = [kind.exit_status for kind in (errors.FiskError, *LEAVES)]
    assert len(set(statuses)) == len(statuses)
    assert all(0 < status < 126 and status != 2 for status in statuses)


@pytest.mark.parametrize("kind", LEAVES)
def test_a_leaf_has_every_face(kind):
    assert kind.__doc__
    assert kind.errno in errno.errorcode
    assert 400 <= kind.http_status < 600
    assert "exit_status" in vars(kind)


@pytest.mark.parametrize("kind", [errors.FiskError, *LEAVES])
def test_a_class_is_found_again_by_name_and_by_status(kind):
    assert errors.by_name(kind.__name__) is kind
    assert errors.by_status(kind.exit_status) is kind


@pytest.mark.parametrize("name", ["Unheard", "errno", "by_name", "", "OSError"])
def test_an_unknown_name_is_a_plain_error(name):
    assert errors.by_name(name) is errors.FiskError


@pytest.mark.parametrize("status", [-9, 0, 2, 99])
def test_an_unknown_status_is_a_plain_error(status):
    assert errors.by_status(status) is errors.FiskError


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, errors.NotFound),
        (errno.EEXIST, errors.AlreadyExists),
        (errno.ENOSPC, errors.NoSpace),
        (errno.EDQUOT, errors.NoSpace),
        (errno.EROFS, errors.ReadOnly),
        (errno.EOPNOTSUPP, errors.Unsupported),
        (errno.EIO, errors.PoolError),
    ],
)
def test_an_error_of_the_system_becomes_ours(number, kind):
    error = errors.from_oserror(OSError(number, "what the system said"), "write layer x")
    assert type(error) is kind
    assert str(error) == "write layer x: what the system said"


def test_an_error_without_number_keeps_its_text():
    assert str(errors.from_oserror(OSError("odd"), "read")) == "read: odd"
