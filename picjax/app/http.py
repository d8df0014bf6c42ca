"""Completions over HTTP as documented JSON endpoints (docs/app.md)."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from picjax.app.answers import (
    ERRORS,
    CompleteAnswer,
    Format,
    RunAnswer,
    SynthesiseAnswer,
    add_errors,
    answer,
    describe,
)
from picjax.app.metrics import Metrics
from picjax.app.requests import (
    MAX_NUM,
    MAX_SEED,
    CompletionRequest,
    GenerationRequest,
    SynthesisRequest,
)
from picjax.app.runs import RunInfo, parse_sampler
from picjax.app.scenes import base, make_request, parse
from picjax.app.uploads import (
    INSTANCES,
    LABELS,
    Limits,
    read_map,
    read_mask,
    read_picture,
)
from picjax.app.worker import Job, Worker
from picjax.cli import UserError
from picjax.synthesis import Reference

POLL = 0.5  # seconds between looks at whether a client is still there

Number = Annotated[int, Form(ge=1, le=MAX_NUM)]
Seed = Annotated[int, Form(ge=0, le=MAX_SEED)]
RunName = Annotated[str, Form(description="default: the first one")]
Sampler = Annotated[str, Form(description="fast; preset=fast,label=3")]
BestOf = Annotated[int | None, Form(ge=1, le=MAX_NUM)]


def create(worker: Worker, metrics: Metrics, limits: Limits) -> FastAPI:
    """The server without its page.

    Args:
      worker: serves the requests.
      metrics: what /metrics shows.
      limits: of uploads.
    """
    app = FastAPI(title="picjax", description="Many images of one input")
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

    add_complete(app, worker, limits)
    add_compose(app, worker, limits)
    add_synthesise(app, worker, limits)
    return app


def add_complete(app: FastAPI, worker: Worker, limits: Limits) -> None:
    """`/api/complete`."""

    @app.post("/api/complete", responses=ERRORS, response_model=CompleteAnswer)
    async def complete(
        request: Request,
        image: Annotated[UploadFile, File(description="PNG, JPEG, WebP, ...")],
        mask: Annotated[UploadFile | None, File(description="white = hole")] = None,
        mask_name: Annotated[str, Form(description="instead, such as center")] = "",
        invert_mask: Annotated[bool, Form(description="black = hole")] = False,
        run: RunName = "",
        num: Number = 6,
        seed: Seed = 0,
        sampler: Sampler = "",
        best_of: BestOf = None,
        format: Format = "json",
    ) -> Any:
        """Draw completions of one image."""
        if (mask is None) == (not mask_name):
            raise UserError("mask and mask_name exclude each other; send one of them")
        files = await contents(image=image, mask=mask)

        def read() -> CompletionRequest:
            picture = read_picture(files["image"], limits)
            size = picture.pixels.shape[:2]
            known, warnings = mask_name, ()
            if mask is not None:
                known, warnings = read_mask(files["mask"], size, limits, invert_mask)
            return CompletionRequest(
                run=run or first_run(worker, lambda info: info.completes),
                num=num,
                seed=seed,
                sampler=parse_sampler(sampler),
                warnings=warnings,
                picture=picture,
                mask=known,
                best_of=best_of,
            )

        return await serve(worker, request, read, format)


def add_compose(app: FastAPI, worker: Worker, limits: Limits) -> None:
    """`/api/compose`."""

    @app.post("/api/compose", responses=ERRORS, response_model=CompleteAnswer)
    async def compose(
        request: Request,
        scene: Annotated[UploadFile, File(description="JSON")],
        files: Annotated[list[UploadFile], File(description="its cut-outs")],
        run: RunName = "",
        num: Number = 6,
        seed: Seed = 0,
        sampler: Sampler = "",
        best_of: BestOf = None,
        format: Format = "json",
    ) -> Any:
        """Draw completions of a scene of cut-outs."""
        text = (await scene.read()).decode("utf-8", "replace")
        cutouts = {base(file.filename or ""): await file.read() for file in files}

        def read() -> CompletionRequest:
            return make_request(
                parse(text),
                cutouts,
                limits,
                run=run or first_run(worker, lambda info: info.completes),
                num=num,
                seed=seed,
                sampler=parse_sampler(sampler),
                best_of=best_of,
            )

        return await serve(worker, request, read, format)


def add_synthesise(app: FastAPI, worker: Worker, limits: Limits) -> None:
    """`/api/synthesise`."""
    map_file = "indices, not colours"

    @app.post("/api/synthesise", responses=ERRORS, response_model=SynthesiseAnswer)
    async def synthesise(
        request: Request,
        labels: Annotated[UploadFile, File(description=f"class numbers: {map_file}")],
        instances: Annotated[UploadFile | None, File(description=map_file)] = None,
        redraw: Annotated[str, Form(description="ids, such as 3 4")] = "",
        style: Annotated[UploadFile | None, File(description="a picture")] = None,
        style_labels: Annotated[UploadFile | None, File(description=map_file)] = None,
        style_instances: Annotated[
            UploadFile | None, File(description=map_file)
        ] = None,
        style_of: Annotated[str, Form(description="pairs, such as 3:5 4:2")] = "",
        run: RunName = "",
        num: Number = 6,
        seed: Seed = 0,
        format: Format = "json",
    ) -> Any:
        """Draw images of one label map."""
        if (style is None) != (style_labels is None):
            raise UserError("style and style_labels go together; send both or neither")
        files = await contents(
            labels=labels,
            instances=instances,
            style=style,
            style_labels=style_labels,
            style_instances=style_instances,
        )

        def read() -> SynthesisRequest:
            reference = None
            if style is not None:
                picture = read_picture(files["style"], limits).srgb
                reference = Reference(picture, *read_maps(files, "style_", limits))
            own_labels, own_instances = read_maps(files, "", limits)
            return SynthesisRequest(
                run=run or first_run(worker, lambda info: bool(info.classes)),
                num=num,
                seed=seed,
                labels=own_labels,
                instances=own_instances,
                redraw=parse_ids(redraw),
                reference=reference,
                style_of=tuple(style_of.split()),
            )

        return await serve(worker, request, read, format)


async def contents(**files: UploadFile | None) -> dict[str, bytes]:
    """The contents of the files that were sent, by field."""
    return {name: await file.read() for name, file in files.items() if file is not None}


def read_maps(files: Mapping[str, bytes], prefix: str, limits: Limits) -> list[Any]:
    """A label and an instance map; None for one that was not sent.

    Raises:
      UserError: if one cannot be used.
    """
    names = {f"{prefix}labels": LABELS, f"{prefix}instances": INSTANCES}
    return [
        read_map(files[name], name, largest, limits) if name in files else None
        for name, largest in names.items()
    ]


def parse_ids(text: str) -> tuple[int, ...]:
    """Ids of instances between spaces.

    Raises:
      UserError: if one is no number.
    """
    words = text.split()
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) <= 9):
            raise UserError(f"redraw '{word[:20]}' is no id of an instance; write 3 4")
    return tuple(map(int, words))


def first_run(worker: Worker, fits: Callable[[RunInfo], bool]) -> str:
    """The run of a request that names none.

    Raises:
      UserError: if there is none that fits.
    """
    for name, info in worker.runs.infos().items():
        if fits(info):
            return name
    raise UserError("there is no run that draws this; train one by `make demo`")


async def serve(
    worker: Worker,
    client: Request,
    read: Callable[[], GenerationRequest],
    format: Format,
) -> Any:
    """Read a request, draw its images, and answer.

    Raises:
      UserError: of the request.
      Defect: for any other error.
    """
    job = worker.submit(await run_in_threadpool(read))
    await finished(job, client)
    return await run_in_threadpool(answer, worker, job, format)


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
