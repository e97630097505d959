"""The HTTP API of a predictor: POST /v1/predict, the other routes, and the web page."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Dependency
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp

from dynconv.page.about import about
from dynconv.serve import pages, schemas, upload
from dynconv.serve.batching import Answer, Batcher
from dynconv.serve.current import Current
from dynconv.serve.envelope import Envelope
from dynconv.serve.gate import Gate, overloaded
from dynconv.serve.keys import Keys
from dynconv.serve.limits import Limits
from dynconv.serve.metrics import Metrics
from dynconv.serve.model import Served
from dynconv.serve.rate import Rate

_DESCRIPTION = "Image classification with dynamic convolutions."
_READERS = min(4, os.cpu_count() or 1)
"""Number of images decoded at the same time. Each may take about 20 bytes per pixel."""
_BEARER = HTTPBearer(auto_error=False, description="The server's key, if it was started with one.")


def create_app(current: Current, limits: Limits, keys: Keys) -> tuple[ASGIApp, Metrics]:
    """The application, and its metrics.

    Args:
        current: the network, which may be replaced while the application runs.
        keys: what clients must send to /v1 and /metrics as `Authorization: Bearer KEY`, if there are any.
    """
    metrics = Metrics(lambda: current.since)
    gate = Gate(limits.queue, metrics.show_in_progress)
    batcher = Batcher(limits.max_batch, limits.max_delay, lambda: gate.in_progress, metrics.count_batch)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.close()

    # FastAPI's own pages load scripts from other hosts, so /docs is ours.
    app = FastAPI(
        title="dynconv", version=version("dynconv"), description=_DESCRIPTION, docs_url=None, redoc_url=None,
        lifespan=lifespan,
    )  # fmt: skip
    key_check = Depends(_key_check(keys))
    limited = [Depends(_rate_check(Rate(limits.rate))), key_check]  # in this order: guessing a key is limited, too
    _add_predict(app, current, limits, gate, batcher, limited)
    _add_model(app, current, limits, limited)
    _add_state(app, batcher, metrics, [key_check])
    pages.add_pages(app, current)
    for kind, handler in ((StarletteHTTPException, _refuse), (RequestValidationError, _refuse_value)):
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(Exception, _apologise)
    return Envelope(app, metrics), metrics


def _add_predict(
    app: FastAPI, current: Current, limits: Limits, gate: Gate, batcher: Batcher, guarded: list[Dependency]
) -> None:
    readers = ThreadPoolExecutor(_READERS, "reader")

    @app.post(
        "/v1/predict",
        dependencies=guarded,
        response_model_exclude_none=True,
        responses=schemas.PREDICT_ERRORS,
        openapi_extra={"requestBody": schemas.PREDICT_BODY},
    )
    async def predict(request: Request, asked: Annotated[schemas.PredictParameters, Query()]) -> schemas.PredictAnswer:
        """Classify images: send one as the body, or several as files of a form, all called "image"."""
        served = current.served
        with gate.entered():
            client = _client(request)
            try:
                with gate.arriving(client):
                    async with asyncio.timeout(limits.seconds):
                        files = await upload.receive_images(request, limits)
            except TimeoutError as error:
                raise HTTPException(408, f"the body took more than {limits.seconds} seconds to arrive") from error
            try:
                async with asyncio.timeout(limits.seconds):
                    loop = asyncio.get_running_loop()
                    predictor = served.predictor
                    images = await loop.run_in_executor(readers, upload.read_pixels, files, predictor.frame, limits)
                    answers = await batcher.predict(predictor, images, asked.routing)
            except TimeoutError as error:
                raise overloaded(f"not done in {limits.seconds} seconds") from error
        return schemas.PredictAnswer(images=[_answer(served, answer, asked.top) for answer in answers])


def _answer(served: Served, answer: Answer, top: int) -> schemas.ImageAnswer:
    (prediction,) = served.predictor.ranked(answer.probabilities[None], top)
    ranked = [schemas.Ranked(class_=name, probability=min(value, 1.0)) for name, value in prediction.top]
    routing = None if answer.routing is None else [a_K.tolist() for a_K in answer.routing]
    return schemas.ImageAnswer(class_=ranked[0].class_, probability=ranked[0].probability, top=ranked, routing=routing)


def _add_model(app: FastAPI, current: Current, limits: Limits, guarded: list[Dependency]) -> None:
    refused: dict[int | str, dict[str, Any]] = {status: schemas.PREDICT_ERRORS[status] for status in (401, 429)}

    @app.get("/v1/model", dependencies=guarded, responses=refused)
    async def model_() -> schemas.ModelAnswer:
        """Return the network's classes and size, the request limits, and the mean routing weights of each class."""
        return _about(current, limits)


def _about(current: Current, limits: Limits) -> schemas.ModelAnswer:
    served = current.served
    return schemas.ModelAnswer(
        **about(served.predictor, served.name, served.class_routing, current.drawings),
        loaded=datetime.fromtimestamp(int(current.since), UTC),
        limits=schemas.LimitsAnswer(body=limits.body, images=limits.images, pixels=limits.pixels),
    )


def _add_state(app: FastAPI, batcher: Batcher, metrics: Metrics, guarded: list[Dependency]) -> None:
    @app.get("/healthz")
    async def alive() -> schemas.StateAnswer:
        """Tell whether the process is alive."""
        return schemas.StateAnswer(status="alive")

    @app.get("/readyz", responses={503: {"model": schemas.ErrorAnswer, "description": "The network is not running"}})
    async def ready() -> schemas.StateAnswer:
        """Tell whether the server can classify images."""
        if not batcher.running:
            raise overloaded("the network is not running")
        return schemas.StateAnswer(status="ready")

    @app.get(
        "/metrics",
        dependencies=guarded,
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: schemas.PREDICT_ERRORS[401]},
    )
    async def figures() -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _key_check(keys: Keys) -> Callable[..., Awaitable[None]]:
    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if keys and (given is None or not keys.admit(given.credentials)):
            raise HTTPException(
                401, "the key is missing or wrong; send Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    return check


def _rate_check(rate: Rate) -> Callable[..., Awaitable[None]]:
    async def check(request: Request) -> None:
        rate.admit(_client(request))

    return check


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _refuse_value(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    lines = [f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()]
    return JSONResponse({"error": "; ".join(lines)}, 422)


async def _apologise(_: Request, error: Exception) -> JSONResponse:
    """Sends no details to the client; the traceback goes to the server's standard error."""
    return JSONResponse({"error": "internal error"}, 500)
