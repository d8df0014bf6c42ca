"""The app's endpoints: completions, the queue, errors, who may ask."""

import asyncio
import base64
import io
import threading
import zipfile

import jax
import numpy as np
import pytest
from helpers.app import (
    CountingSystem,
    Gate,
    client,
    make_counting_model,
    make_runs,
    options,
    request_files,
)
from helpers.pictures import half_mask, picture
from PIL import Image
from starlette.requests import Request

from picjax.app import runs as runs_module
from picjax.app.access import LimitBody
from picjax.app.command import check_address, listen
from picjax.app.metrics import Metrics
from picjax.app.requests import CompletionRequest
from picjax.app.server import make_app
from picjax.app.worker import Busy, Defect, Worker
from picjax.cli import UserError
from picjax.images import Picture
from picjax.model import Model

FILES = request_files()


def server(runs, *words, **kwargs):
    """A client of a server, and its worker."""
    metrics = Metrics()
    worker = Worker(runs, on_end=metrics.count, **kwargs)
    return client(make_app(worker, metrics, options(*words), page=False)), worker


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        runs = make_runs(tmp_path_factory.mktemp("runs"), patch)
        yield server(runs)


@pytest.fixture
def web(shared):
    return shared[0]


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def a_request(**changes) -> CompletionRequest:
    given = {"run": "one.safetensors", **changes}
    photo = Picture(picture(0, 40, 60))
    return CompletionRequest(picture=photo, mask=half_mask(40, 60), **given)


# ---- completing ----


def test_completions_are_those_of_the_model(web):
    answer = web.post("/api/complete", files=FILES, data={"num": 3, "seed": 4})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    expected = make_counting_model().complete(
        picture(0, 40, 60), half_mask(40, 60), n=3, seed=4
    )
    drawn = [opened(base64.b64decode(file)) for file in body["completions"]]
    np.testing.assert_array_equal(drawn, expected)
    assert body["size"] == [40, 60] and "--seed=4" in body["command"]


def test_a_named_mask_and_a_zip(web):
    answer = web.post(
        "/api/complete?format=zip",
        files={"image": FILES["image"]},
        data={"mask_name": "center", "num": 2, "best_of": 4},
    )
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = ["image.png", "image_out_0.png", "image_out_1.png", "command.txt"]
        assert archive.namelist() == names
        assert b"--mask=center" in archive.read("command.txt")
        image, out = (opened(archive.read(name)) for name in names[:2])
    np.testing.assert_array_equal(out[0], image[0])
    assert (out != image).any()


def test_the_runs_and_the_documentation(web):
    (run,) = web.get("/api/runs").json()
    assert run["name"] == "one.safetensors" and run["size"] == [32, 32]
    paths = web.get("/openapi.json").json()["paths"]
    assert {"/api/complete", "/health", "/ready", "/metrics"} <= set(paths)


def test_metrics_count_requests(web):
    def value(name: str) -> float:
        lines = web.get("/metrics").text.splitlines()
        values = [line.split()[-1] for line in lines if line.startswith(name)]
        return float(values[0]) if values else 0.0

    done = 'picjax_requests_total{outcome="done"}'
    before = value(done), value("picjax_completions_total")
    web.post("/api/complete", files=FILES, data={"num": 2})
    assert value(done) == before[0] + 1
    assert value("picjax_completions_total") == before[1] + 2
    assert value("picjax_memory_bytes") > 10**6


# ---- errors ----


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"num": "9" * 5000}, "num"),
        ({"num": "0"}, "num"),
        ({"num": "many"}, "num"),
        ({"seed": "-1"}, "seed"),
        ({"seed": "1e400"}, "seed"),
        ({"run": "../../etc"}, "run '../../etc' is none of"),
        ({"sampler": "fast"}, "draws in one way"),
        ({"sampler": "jump_times=9"}, "sampler setting"),
        ({"best_of": "2", "num": "3"}, "best_of is 2"),
        ({"mask_name": "center"}, "exclude each other"),
        ({"invert_mask": "perhaps"}, "invert_mask"),
    ],
)
def test_a_wrong_field_is_one_sentence(web, fields, word):
    answer = web.post("/api/complete", files=FILES, data=fields)
    assert answer.status_code == 400
    sentence = answer.json()["error"]
    assert word in sentence and "\n" not in sentence and "Traceback" not in sentence


def test_a_mask_is_needed_and_a_page_may_be_unknown(web):
    answer = web.post("/api/complete", files={"image": FILES["image"]})
    assert answer.status_code == 400 and "mask" in answer.json()["error"]
    assert web.post("/api/complete").status_code == 400
    assert web.get("/api/none").json() == {"error": "Not Found"}


def test_a_defect_is_one_sentence_and_the_server_goes_on(web, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("/secret/path")

    with monkeypatch.context() as patch:
        patch.setattr(Model, "stream", fail)
        answer = web.post("/api/complete", files=FILES)
    assert answer.status_code == 500 and "secret" not in answer.text
    assert "/secret/path" in caplog.text
    assert web.post("/api/complete", files=FILES).status_code == 200


def test_large_requests_are_refused(shared, web):
    large = {"image": b"0" * (33 * 2**20), "mask": FILES["mask"]}
    answer = web.post("/api/complete", files=large)
    assert answer.status_code == 413 and "send smaller files" in answer.text

    def chunks():  # without a content-length
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(33):
            yield b"0" * 2**20

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = web.post("/api/complete", content=chunks(), headers=headers)
    assert answer.status_code == 413


def test_a_client_that_goes_away_while_it_sends_is_a_line_in_the_log(caplog):
    async def read(scope, receive, send):
        await Request(scope, receive).body()

    async def gone():
        return {"type": "http.disconnect"}

    async def send(_):
        raise AssertionError("nobody is there to be answered")

    caplog.set_level("INFO", "picjax.app")
    scope = {"type": "http", "path": "/upload", "headers": []}
    asyncio.run(LimitBody(read, most=10)(scope, gone, send))
    assert caplog.messages == ["/upload: the client went away while it sent"]


# ---- the queue ----


class GatedSystem(CountingSystem):
    """Waits before each group of draws."""

    def __init__(self, gate):
        self.gate = gate

    def sample(self, variables, batch, key, n):
        jax.debug.callback(self.gate)
        return super().sample(variables, batch, key, n)


@pytest.fixture
def gated(tmp_path, monkeypatch):
    """A gate and runs whose draws wait for it."""
    gate = Gate()
    runs = make_runs(tmp_path, monkeypatch)
    fake = make_counting_model()
    model = Model(fake.config, GatedSystem(gate), fake.variables, 7)
    monkeypatch.setattr(runs_module, "load", lambda *_: model)
    yield gate, runs
    gate.opened.set()


def test_a_full_queue_refuses_politely_and_a_stop_finishes_what_was_accepted(gated):
    gate, runs = gated
    web, worker = server(runs, max_waiting=2)
    jobs = [worker.submit(a_request(num=1))]
    assert gate.entered.wait(60)
    jobs += [worker.submit(a_request(num=1, seed=seed)) for seed in (1, 2)]
    answer = web.post("/api/complete", files=FILES)
    assert answer.status_code == 503 and "2 requests are waiting" in answer.text
    assert answer.headers["retry-after"] == "5"
    assert "picjax_queue_length 2.0" in web.get("/metrics").text
    assert worker.position(jobs[2]) == 2 and web.get("/ready").status_code == 200
    drained = threading.Thread(target=worker.drain)
    drained.start()
    while worker.ready:
        pass
    assert web.get("/ready").status_code == 503
    assert web.get("/health").status_code == 200
    with pytest.raises(Busy, match="stopping"):
        worker.submit(a_request())
    gate.opened.set()
    drained.join()
    assert [len(job.samples) for job in jobs] == [1, 1, 1]
    text = web.get("/metrics").text
    assert 'outcome="refused"} 2.0' in text


def test_a_cancelled_job_draws_no_further_completions(gated):
    gate, runs = gated
    worker = Worker(runs)
    job = worker.submit(a_request(num=8))
    waiting = worker.submit(a_request(num=8))
    assert gate.entered.wait(60)
    job.cancel()
    waiting.cancel()
    gate.opened.set()
    assert job.wait(timeout=60.0) and waiting.wait(timeout=60.0)
    assert (len(job.samples), len(waiting.samples), gate.draws) == (2, 0, 1)


def test_requests_of_equal_shape_are_completed_together(tmp_path, monkeypatch):
    runs = make_runs(tmp_path, monkeypatch)
    sizes = []
    original = Model.complete

    def spy(self, image, *args):
        sizes.append(len(image))
        return original(self, image, *args)

    monkeypatch.setattr(Model, "complete", spy)
    gate = threading.Event()
    monkeypatch.setattr(
        runs_module, "load", lambda *_: gate.wait(60) and make_counting_model()
    )
    worker = Worker(runs, batch=4)
    first = worker.submit(a_request(seed=9))
    together = [worker.submit(a_request(seed=1)) for _ in range(3)]
    other = worker.submit(a_request(seed=2))
    gate.set()
    for job in (first, *together, other):
        assert job.wait(timeout=60.0) and len(job.samples) == 6
    assert sizes == [3]
    np.testing.assert_array_equal(together[0].samples, together[2].samples)


def test_a_defect_of_one_request_is_not_the_next_ones(tmp_path, monkeypatch):
    runs = make_runs(tmp_path, monkeypatch)
    worker = Worker(runs)
    original = Model.stream
    monkeypatch.setattr(Model, "stream", lambda *_: 1 / 0)
    with pytest.raises(Defect, match="whose log says why"):
        worker.submit(a_request()).wait(timeout=60.0)
    monkeypatch.setattr(Model, "stream", original)
    assert worker.submit(a_request()).wait(timeout=60.0)


# ---- who may ask ----


def test_an_open_address_needs_a_secret():
    for words in (["--host=0.0.0.0"], ["--host=192.168.0.7"], ["--host=::"]):
        with pytest.raises(UserError, match="can be reached from other machines"):
            check_address(options(*words))
        check_address(options(*words, "--no-auth"))
        check_address(options(*words, "--auth=a:b"))
        check_address(options(*words, "--token=t"))
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        check_address(options(f"--host={host}"))
    with pytest.raises(UserError, match="no password"):
        check_address(options("--auth=user"))


def test_basic_authentication(shared):
    args = options("--auth=ann:secret")
    web = client(make_app(shared[1], Metrics(), args, page=False))
    for auth in (None, ("ann", "wrong"), ("", "secret")):
        answer = web.get("/api/runs", auth=auth)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
    assert (
        web.get("/api/runs", headers={"Authorization": "Basic ???"}).status_code == 401
    )
    assert web.get("/api/runs", auth=("ann", "secret")).status_code == 200
    assert web.get("/health").status_code == 200


def test_a_token_once_in_a_browser_and_in_each_request_of_a_program(shared):
    app = make_app(shared[1], Metrics(), options("--token=abc"), page=False)
    web = client(app)
    assert web.get("/api/runs").status_code == 401
    bearer = {"Authorization": "Bearer abc"}
    assert web.get("/api/runs", headers=bearer).status_code == 200
    assert web.get("/api/runs?token=abd").status_code == 401
    first = web.get("/api/runs?token=abc", follow_redirects=False)
    assert first.status_code == 303 and "HttpOnly" in first.headers["set-cookie"]
    assert web.get("/api/runs").status_code == 200


def test_a_page_of_another_name_cannot_ask_a_local_server(web):
    answer = web.get("/api/runs", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert web.get("/api/runs", headers={"Host": "[::1]:7860"}).status_code == 200


def test_a_taken_port_is_one_sentence():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} cannot be listened on"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match="--port is 99999"):
        options("--port=99999")
