# SPDX-License-Identifier: Apache-2.0
"""What is committed beside the code says what the code says: options, policy, OpenAPI, unit files."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fisk_core.api.app import create_app, operations, policies
from fisk_core.api.identity import ROLES

ROOT = Path(__file__).parents[2]
AGAIN = "is not current: run 'make samples'"


def run(*words: str | Path) -> str:
    done = subprocess.run([str(each) for each in words], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


def tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def test_the_sample_of_options_is_current(tmp_path):
    made = tmp_path / "sample"
    run(tool("oslo-config-generator"), "--namespace=fisk", "--namespace=fisk.daemon", "--output-file", made)
    assert made.read_text() == (ROOT / "etc/fisk.conf.sample").read_text(), AGAIN


def test_the_sample_of_the_policy_is_current(tmp_path):
    made = tmp_path / "sample"
    run(tool("oslopolicy-sample-generator"), "--namespace=fisk", "--output-file", made)
    assert made.read_text() == (ROOT / "etc/policy.yaml.sample").read_text(), AGAIN


def _shape(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Give what clients depend on, and not how this version of the framework writes it."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parameters = [(each["name"], each["in"]) for each in operation.get("parameters", ())]
            yield path, method, operation["operationId"], sorted(parameters), sorted(operation["responses"])
    for name, schema in document["components"]["schemas"].items():
        yield name, sorted(schema.get("properties", ())), sorted(schema.get("required", ()))


def test_the_openapi_document_is_current():
    committed = json.loads((ROOT / "doc/source/openapi.json").read_text())
    assert sorted(map(str, _shape(create_app().openapi()))) == sorted(map(str, _shape(committed))), AGAIN


def test_every_operation_documents_its_problems_and_its_rule():
    document = create_app().openapi()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if status == "default" or int(status) >= 400:
                    assert "application/problem+json" in response["content"] or path == "/healthz"
            assert {"400", "401", "403", "413", "429", "500"} <= set(operation["responses"])


def test_there_is_a_documented_rule_for_every_operation():
    rules = {rule.name: rule for rule in policies()}
    for rule, role, what, method, path in operations():
        assert role in ROLES
        assert what
        assert {"method": method, "path": path} in rules[rule].operations


def test_ids_of_operations_are_distinct():
    methods = [each for path in create_app().openapi()["paths"].values() for each in path.values()]
    ids = [operation["operationId"] for operation in methods]
    assert len(set(ids)) == len(ids)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_units(tmp_path):
    units = []
    for unit in (ROOT / "etc/systemd").iterdir():
        # The programs are where a package puts them, which need not be here.
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/usr/bin/fiskd", "/bin/true"))
        units.append(copy)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_loads_nothing_of_the_daemon():
    heavy = {"fastapi", "uvicorn", "pydantic", "starlette", "oslo_log", "oslo_policy", "prometheus_client"}
    code = f"import sys, fisk_core.cli.shell, fisk_core.engine; print(sorted({heavy} & set(sys.modules)))"
    assert run(sys.executable, "-c", code).strip() == "[]"
