"""Completions over HTTP as documented JSON endpoints (docs/app.md)."""

import base64
import logging
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from picjax.app.metrics import Metrics
from picjax.app.requests import MAX_NUM, MAX_SEED, CompletionRequest
from picjax.app.results import zip_bytes
from picjax.app.runs import RunInfo, parse_sampler
from picjax.app.uploads import Limits, read_mask, read_picture
from picjax.app.worker import Busy, Defect, Job, Worker
from picjax.cli import UserError
from picjax.images import png_bytes

LOG = logging.getLogger("picjax.app")
POLL = 0.5  # seconds between looks at whether a client is still there

Number = Annotated[int, Form(ge=1, le=MAX_NUM)]


class RunAnswer(BaseModel):
    """One run of the list."""

    name: str
    system: str
    size: tuple[int, int]
    completes: bool
    samplers: list[str]


class CompleteAnswer(BaseModel):
    """Completions and how to draw them again."""

    run: str
    num: int
    seed: int
    size: tuple[int, int]
    warnings: list[str]
    command: str
    completions: list[str]  # PNG files, base64


class ErrorAnswer(BaseModel):
    """What was wrong, and how to mend it."""

    error: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": why}
    for status, why in [
        (400, "A field or file cannot be used"),
        (413, "The request is too large"),
        (500, "A defect of the server"),
        (503, "The queue is full, or the server is stopping"),
    ]
}


def create(worker: Worker, metrics: Metrics, limits: Limits) -> FastAPI:
    """The server without its page.

    Args:
      worker: serves the requests.
      metrics: what /metrics shows.
      limits: of uploads.
    """
    app = FastAPI(title="picjax", description="n completions of one masked image")
    metrics.observe(worker)
    add_errors(app)

    @app.get("/health")
    def health() -> dict[str, str]:
        """Whether the server lives."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: ERRORS[503]})
    def ready() -> dict[str, str]:
        """Whether the server takes requests."""
        if not worker.ready:
            raise HTTPException(503, "the server is stopping; try again in a minute")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    def read_metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/api/runs")
    def runs() -> list[RunAnswer]:
        """The runs by name, and what can be asked of each."""
        return [describe(*run) for run in worker.runs.infos().items()]

    @app.post("/api/complete", responses=ERRORS, response_model=CompleteAnswer)
    async def complete(
        request: Request,
        image: Annotated[UploadFile, File(description="PNG, JPEG, WebP, ...")],
        mask: Annotated[UploadFile | None, File(description="white = hole")] = None,
        mask_name: Annotated[str, Form(description="instead, such as center")] = "",
        invert_mask: Annotated[bool, Form(description="black = hole")] = False,
        run: Annotated[str, Form(description="default: the first one")] = "",
        num: Number = 6,
        seed: Annotated[int, Form(ge=0, le=MAX_SEED)] = 0,
        sampler: Annotated[str, Form(description="fast; preset=fast,label=3")] = "",
        best_of: Annotated[int | None, Form(ge=1, le=MAX_NUM)] = None,
        format: Literal["json", "zip"] = "json",
    ) -> Any:
        """Draw completions of one image."""
        if (mask is None) == (not mask_name):
            raise UserError("mask and mask_name exclude each other; send one of them")
        data = await image.read()
        hole = None if mask is None else await mask.read()

        def read() -> CompletionRequest:
            picture = read_picture(data, limits)
            size = picture.pixels.shape[:2]
            known, warnings = mask_name, ()
            if hole is not None:
                known, warnings = read_mask(hole, size, limits, invert_mask)
            return CompletionRequest(
                run=run or first_run(worker),
                num=num,
                seed=seed,
                sampler=parse_sampler(sampler),
                warnings=warnings,
                picture=picture,
                mask=known,
                best_of=best_of,
            )

        job = worker.submit(await run_in_threadpool(read))
        await finished(job, request)
        return await run_in_threadpool(answer, worker, job, format)

    return app


def describe(name: str, info: RunInfo) -> RunAnswer:
    """A run of the list."""
    return RunAnswer(
        name=name,
        system=info.system,
        size=info.size,
        completes=info.completes,
        samplers=list(info.samplers),
    )


def first_run(worker: Worker) -> str:
    """The run of a request that names none.

    Raises:
      UserError: if there are no runs.
    """
    for name, info in worker.runs.infos().items():
        if info.completes:
            return name
    raise UserError("there is no run that completes; train one by `make demo`")


async def finished(job: Job, request: Request) -> None:
    """Wait for a job; cancel it if its client goes away.

    Raises:
      UserError: of the request.
      Defect: for any other error.
    """
    while not await run_in_threadpool(job.wait, None, POLL):
        if await request.is_disconnected():
            job.cancel()
            return


def answer(worker: Worker, job: Job, format: str) -> Any:
    """What a client gets for a job that has ended."""
    request, command = job.request, worker.command_line(job)
    if format == "zip":
        content = zip_bytes(request, job.samples, command)
        headers = {"Content-Disposition": "attachment; filename=completions.zip"}
        return Response(content, media_type="application/zip", headers=headers)
    files = [png_bytes(sample, request.icc) for sample in job.samples]
    return CompleteAnswer(
        run=request.run,
        num=request.num,
        seed=request.seed,
        size=request.size,
        warnings=job.warnings,
        command=command,
        completions=[base64.b64encode(file).decode() for file in files],
    )


# ---- errors: one sentence for the client, one line in the log ----


def add_errors(app: FastAPI) -> None:
    """Answer every error with one sentence."""

    def sentence(request: Request, status: int, text: str) -> JSONResponse:
        LOG.info("%s %s: %d %s", request.method, request.url.path, status, text)
        headers = {"Retry-After": "5"} if status == 503 else None
        return JSONResponse({"error": text}, status, headers)

    @app.exception_handler(UserError)
    async def of_user(request: Request, error: UserError) -> JSONResponse:
        status = 503 if isinstance(error, Busy) else 400
        return sentence(request, status, str(error))

    @app.exception_handler(Defect)
    async def of_server(request: Request, error: Defect) -> JSONResponse:
        return sentence(request, 500, str(error))

    @app.exception_handler(RequestValidationError)
    async def of_field(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return sentence(request, 400, f"{place}: {first['msg']}; correct it")

    @app.exception_handler(HTTPException)
    async def of_route(request: Request, error: HTTPException) -> JSONResponse:
        return sentence(request, error.status_code, str(error.detail))
