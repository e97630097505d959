"""Requests made up from the OpenAPI description: the server does what it says there."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

KEY = {"Authorization": "Bearer sesame"}


@pytest.fixture(scope="module")
def api(serving: Callable[..., contextlib.AbstractContextManager[str]], picture: Callable[..., bytes]) -> Iterator[Any]:
    files = st.sampled_from([picture(), picture(1, "JPEG"), picture()[:100], b"no image", b""])
    for kind in ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, files)
    schemathesis.openapi.format("binary", files)
    with serving(key="sesame") as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("mode", GenerationMode)
def test_answers_are_as_described(api: Any, mode: GenerationMode) -> None:
    tried = set()
    for result in api.get_all_operations():
        operation = result.ok()

        @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers_as_described(case: schemathesis.Case) -> None:
            # The description cannot say which bytes are an image.
            case.call_and_validate(headers=KEY, excluded_checks=[positive_data_acceptance])

        with contextlib.suppress(Unsatisfiable):  # where nothing about a request can be wrong
            answers_as_described()
            tried.add(operation.path)
    assert "/v1/predict" in tried
