"""What the HTTP endpoints answer: runs, images, and one sentence for every error."""

import base64
import logging
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from picjax.app.requests import SynthesisRequest
from picjax.app.results import zip_bytes
from picjax.app.runs import RunInfo
from picjax.app.worker import Busy, Defect, Job, Worker
from picjax.cli import UserError
from picjax.images import png_bytes

LOG = logging.getLogger("picjax.app")

Format = Literal["json", "zip"]


class RunAnswer(BaseModel):
    """One run of the list."""

    name: str
    system: str
    size: tuple[int, int]
    completes: bool
    samplers: list[str]
    classes: list[str]  # of its label maps


class Answer(BaseModel):
    """What was drawn, and the command that draws it again."""

    run: str
    num: int
    seed: int
    size: tuple[int, int]
    warnings: list[str]
    command: str


class CompleteAnswer(Answer):
    """Completions of an image."""

    completions: list[str]  # PNG files, base64


class SynthesiseAnswer(Answer):
    """Images of a label map."""

    images: list[str]  # PNG files, base64


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


def describe(name: str, info: RunInfo) -> RunAnswer:
    """A run of the list."""
    return RunAnswer(
        name=name,
        system=info.system,
        size=info.size,
        completes=info.completes,
        samplers=list(info.samplers),
        classes=list(info.classes),
    )


def answer(worker: Worker, job: Job, format: Format) -> Any:
    """What a client gets for a job that has ended."""
    request, command = job.request, worker.command_line(job)
    if format == "zip":
        content = zip_bytes(request, job.samples, command)
        headers = {"Content-Disposition": "attachment; filename=completions.zip"}
        return Response(content, media_type="application/zip", headers=headers)
    files = [png_bytes(sample, request.icc) for sample in job.samples]
    encoded = [base64.b64encode(file).decode() for file in files]
    common: Any = {
        "run": request.run,
        "num": request.num,
        "seed": request.seed,
        "size": request.size,
        "warnings": job.warnings,
        "command": command,
    }
    if isinstance(request, SynthesisRequest):
        return SynthesiseAnswer(**common, images=encoded)
    return CompleteAnswer(**common, completions=encoded)


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
