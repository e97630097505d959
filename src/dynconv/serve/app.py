"""The HTTP API of a predictor: POST /v1/predict, the other routes, and the web page."""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Dependency
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp

from dynconv.page import samples
from dynconv.serve import pages, schemas, upload
from dynconv.serve.batching import Answer, Batcher
from dynconv.serve.envelope import Envelope
from dynconv.serve.gate import Gate, overloaded
from dynconv.serve.limits import Limits
from dynconv.serve.metrics import Metrics
from dynconv.serve.model import Served

_DESCRIPTION = "Image classification with dynamic convolutions."
_READERS = min(4, os.cpu_count() or 1)
"""Number of images decoded at the same time. Each may take about 20 bytes per pixel."""
_BEARER = HTTPBearer(auto_error=False, description="The server's key, if it was started with one.")


def create_app(served: Served, limits: Limits, key: str | None) -> tuple[ASGIApp, Metrics]:
    """The application, and its metrics.

    Args:
        key: the key that clients must send to /v1 and /metrics as `Authorization: Bearer KEY`; None for no key.
    """
    gate = Gate(limits.queue)
    metrics = Metrics(lambda: gate.in_progress)
    batcher = Batcher(
        served.predictor, limits.max_batch, limits.max_delay, lambda: gate.in_progress, metrics.count_batch
    )

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
    guarded = [Depends(_key_check(key))]
    _add_predict(app, served, limits, gate, batcher, guarded)
    drawings = samples.draw(served.predictor.classes)
    _add_model(app, served, limits, list(drawings), guarded)
    _add_state(app, batcher, metrics, guarded)
    pages.add_pages(app, drawings)
    for kind, handler in ((StarletteHTTPException, _refuse), (RequestValidationError, _refuse_value)):
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(Exception, _apologise)
    return Envelope(app, metrics), metrics


def _add_predict(
    app: FastAPI, served: Served, limits: Limits, gate: Gate, batcher: Batcher, guarded: list[Dependency]
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
        with gate.entered():
            client = request.client.host if request.client else ""
            try:
                with gate.arriving(client):
                    async with asyncio.timeout(limits.seconds):
                        files = await upload.receive_images(request, limits)
            except TimeoutError as error:
                raise HTTPException(408, f"the body took more than {limits.seconds} seconds to arrive") from error
            try:
                async with asyncio.timeout(limits.seconds):
                    loop = asyncio.get_running_loop()
                    images = await loop.run_in_executor(readers, upload.read_pixels, files, limits)
                    answers = await batcher.predict(images, asked.routing)
            except TimeoutError as error:
                raise overloaded(f"not done in {limits.seconds} seconds") from error
        return schemas.PredictAnswer(images=[_answer(served, answer, asked.top) for answer in answers])


def _answer(served: Served, answer: Answer, top: int) -> schemas.ImageAnswer:
    (prediction,) = served.predictor.ranked(answer.probabilities[None], top)
    ranked = [schemas.Ranked(class_=name, probability=min(value, 1.0)) for name, value in prediction.top]
    routing = None if answer.routing is None else [a_K.tolist() for a_K in answer.routing]
    return schemas.ImageAnswer(class_=ranked[0].class_, probability=ranked[0].probability, top=ranked, routing=routing)


def _add_model(app: FastAPI, served: Served, limits: Limits, drawings: list[str], guarded: list[Dependency]) -> None:
    model = served.predictor.model
    about = schemas.ModelAnswer(
        name=served.name,
        version=version("dynconv"),
        data=served.predictor.data_name,
        classes=list(served.predictor.classes),
        blocks=len(model.widths),
        experts=list(model.per_block("experts")),
        class_routing=[
            [[None if value != value else value for value in row] for row in mean_CK.tolist()]
            for mean_CK in served.class_routing
        ],
        samples=drawings,
        limits=schemas.LimitsAnswer(body=limits.body, images=limits.images, pixels=limits.pixels),
    )

    @app.get("/v1/model", dependencies=guarded, responses={401: schemas.PREDICT_ERRORS[401]})
    async def model_() -> schemas.ModelAnswer:
        """Return the network's classes and size, the request limits, and the mean routing weights of each class."""
        return about


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


def _key_check(key: str | None) -> Callable[..., None]:
    def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if key is None:
            return
        if given is None or not hmac.compare_digest(given.credentials.encode(), key.encode()):
            raise HTTPException(
                401, "the key is missing or wrong; send Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    return check


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
