# SPDX-License-Identifier: Apache-2.0
"""Requests made from the OpenAPI document, sensible and not: a real daemon answers all of them as it says."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi import checks

from tests.fiskds import Fiskd, running

DOCUMENT = json.loads((Path(__file__).parents[2] / "doc/source/openapi.json").read_text())
STREAMS = ["/v1/events"]
"""answers without an end"""
EXAMPLES = 7
CHECKS = (
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
)
schema = schemathesis.openapi.from_dict(DOCUMENT).exclude(path=STREAMS)


@pytest.fixture(scope="module")
def fiskd() -> Iterator[Fiskd]:
    limits = {"listen": "127.0.0.1:0", "max_jobs": 5}
    with TemporaryDirectory(prefix="fisk-") as home, running(Path(home), api=limits) as started:
        for name in ("a", "b"):
            body = json.dumps({"name": name, "size": 1 << 20}).encode()
            started.request("POST", "/v1/fisks", body, {"Content-Type": "application/json"})
        yield started
        assert " ERROR " not in started.log


@pytest.fixture(scope="module")
def secret(fiskd: Fiskd) -> str:
    body = json.dumps({"name": "schema", "role": "admin"}).encode()
    made = fiskd.request("POST", "/v1/tokens", body, {"Content-Type": "application/json"})
    return str(json.loads(made[2])["secret"])


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_documented(case, fiskd, secret):
    headers = {"Authorization": f"Bearer {secret}"}
    answer = case.call(base_url=f"http://127.0.0.1:{fiskd.port}", headers=headers, timeout=30)
    # A body that is too long is refused for that, whatever else is wrong with it.
    too_long = (checks.negative_data_rejection,) if answer.status_code == 413 else ()
    case.validate_response(answer, checks=[each for each in CHECKS if each not in too_long])
