"""Every operation of the coordinator's API, with what its own OpenAPI document allows and with what
it does not: an answer must be one that the document names, and never an error of the service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode
from schemathesis.checks import FailureGroup, not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.integration.coordinator_asking import Asked, asked, make_template

# A stream that ends with its run, and what takes a quarter of a second of argon2 each time; both
# have tests of their own.
LEFT_OUT = r"^/v1/(runs/\{run_id\}/events|session.*|people/\{name\}/password)$"
KNOWN = {"run_id": "run-1", "name": "bank"}
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("openapi")
    with asked(make_template(folder / "template"), folder / "coordinator") as opened:
        opened.enrol("bank", "retailer", "shop")
        opened.disclose("bank", public_size=6000, used=0.1)
        opened.finished("run-1")
        yield opened


def headers_of(api: Asked) -> dict[str, str]:
    return {"authorization": f"Bearer {api.token('admin')}", "host": "127.0.0.1"}


@pytest.fixture(scope="module")
def document(api: Asked) -> BaseSchema:
    loaded = schemathesis.openapi.from_asgi(
        "/v1/openapi.json",
        api.coordinator.service.app,
        headers=headers_of(api),
    )
    return loaded.exclude(path_regex=LEFT_OUT)


def test_every_answer_is_one_that_the_document_names(api: Asked, document: BaseSchema) -> None:
    asked_of, faults = 0, []
    for found in document.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _ask(api, operation.as_strategy(generation_mode=mode))
            except Unsatisfiable:
                continue  # an operation without anything that could be wrong
            except (FailureGroup, AssertionError) as error:
                faults.append(f"{operation.label}: {error}")
        asked_of += 1
    assert not faults, "\n\n".join(faults)
    assert asked_of > 30


def _ask(api: Asked, cases: SearchStrategy[Case]) -> None:
    @settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def check(case: Case) -> None:
        case.call_and_validate(checks=CHECKS, headers=headers_of(api))
        known = {name: KNOWN[name] for name in case.path_parameters or {} if name in KNOWN}
        if known:
            case.path_parameters = known
            case.call_and_validate(checks=CHECKS, headers=headers_of(api))

    check()
