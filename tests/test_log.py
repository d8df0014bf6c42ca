"""No step has two lines after a resume, and half a line is no line."""

import io
import itertools
import json
import re
from functools import partial

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console

from picjax import log as module
from picjax import wandb_log
from picjax.log import MEANINGS, Log, drop_later_lines, duration, progress_line


def config(total, project=""):
    run = {"steps": total, "batch_size": 8, "log": {"wandb": project}}
    return ConfigDict(run)


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_after_the_restored_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": i, "seconds": 2.0 * i}) + "\n" for i in range(1, 5)]
    path.write_text("".join(lines) + '{"step": 5, "sec')
    assert drop_later_lines(path, 3) == 6.0
    assert steps(path) == [1, 2, 3]
    assert drop_later_lines(tmp_path / "absent.jsonl", 3) == 0.0


def test_damaged_lines_are_removed_and_reported(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": i, "seconds": 2.0 * i}).encode() for i in range(1, 5)]
    spoilt = [b"\0" * 30, b"\xff\xfe{}", b"[1]", b'{"step": "4"}', lines[1]]
    path.write_bytes(b"\n".join([*lines[:3], *spoilt, lines[3]]))
    assert drop_later_lines(path, 4) == 8.0
    assert steps(path) == [1, 2, 3, 4]
    assert "had 5 damaged line(s)" in capsys.readouterr().err


def test_log_goes_on_where_it_was(tmp_path):
    for start in (0, 2):  # the second run begins again at step 2
        with Log(tmp_path, start, config(4)) as log:
            for step in range(start + 1, 4):
                log.metrics(step, {"rec": float(step)})
            log.grid(3, np.zeros((4, 4, 3), np.uint8))
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3]
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["rec"] == 3.0 and line["images_per_second"] > 0
    with Image.open(tmp_path / "samples" / "0000003.png") as grid:
        assert grid.size == (4, 4)


def test_durations_read_like_a_clock():
    assert [duration(s) for s in (5.0, 65.0, 7384.9)] == ["0:05", "1:05", "2:03:04"]


def test_a_narrow_terminal_cuts_metrics_and_neither_step_rate_nor_time_left(
    tmp_path, monkeypatch
):
    screen = io.StringIO()
    terminal = partial(Console, file=screen, width=80, force_terminal=True)
    monkeypatch.setattr(module, "Console", terminal)
    metrics = {f"metric_{i}": 0.123456 for i in range(9)}
    with Log(tmp_path, 0, config(1_000_000)) as log:
        log.progress(100_000, metrics, logged=True)
    (shown,) = [line for line in screen.getvalue().splitlines() if "step" in line]
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", shown).strip("\r")
    assert len(shown) == 80 and shown.endswith("…")
    step, rate, left, first, *_ = shown.split("  ")
    assert step == "step 100000/1000000" and rate.endswith(" images/s")
    assert left.endswith(" left") and first == "metric_0 0.1235"


def test_off_a_terminal_the_first_step_has_a_line_and_later_ones_in_time(
    tmp_path, capsys, monkeypatch
):
    clock = iter(range(10_000))  # every look at the clock takes a second
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    with Log(tmp_path, 0, config(500)) as log:
        for step in range(1, 501):
            log.progress(step, {"rec": 1.0}, logged=step == 450)
    lines = capsys.readouterr().err.splitlines()
    steps = [int(line.split()[1].split("/")[0]) for line in lines]
    assert steps[:6] == [1, 2, 4, 8, 16, 32] and 450 in steps
    assert all(b - a <= 60 for a, b in itertools.pairwise(steps))


def test_an_activity_is_announced_once_and_timed(tmp_path, capsys):
    with Log(tmp_path, 0, config(4)) as log:
        with log.announce("compiling the training step"):
            assert capsys.readouterr().err == "compiling the training step ...\n"
        line = capsys.readouterr().err
        assert re.fullmatch(r"compiling the training step took \d+\.\d s\n", line)
        with log.announce("compiling the training step"):
            assert capsys.readouterr().err == ""


def test_a_project_of_weights_and_biases_gets_metrics_and_grids(tmp_path, monkeypatch):
    logged, started = [], []

    class StandIn:
        """What picjax calls of wandb, and of a run of it."""

        Image = staticmethod(np.shape)

        def init(self, **options):
            started.append(options)
            return self

        def log(self, values, step):
            logged.append((step, values))

        def finish(self):
            logged.append("finished")

    monkeypatch.setattr(wandb_log, "require", lambda module, extra: StandIn())
    for start in (0, 1):
        with Log(tmp_path, start, config(4, "faces")) as log:
            log.metrics(start + 1, {"rec": 0.5})
            log.grid(start + 1, np.zeros((4, 4, 3), np.uint8))
    assert logged[0][0] == 1 and logged[0][1]["rec"] == 0.5
    assert logged[1:3] == [(1, {"samples": (4, 4, 3)}), "finished"]
    first, second = started
    assert first["project"] == "faces" and first["resume"] == "allow"
    assert first["id"] == second["id"] and first["config"]["steps"] == 4


def test_rates_are_read_at_a_glance():
    lines = [progress_line("1/2", rate, 65.0, {}) for rate in (12345.6, 35.21, 0.0213)]
    shown = [line.split("  ")[1] for line in lines]
    assert shown == ["12345.6 images/s", "35.2 images/s", "0.021 images/s"]


def test_tensorboards_tags_say_what_they_mean(tmp_path):
    meaning = "distance of the mixture from the posterior"
    with Log(tmp_path, 0, config(4), {"bm": meaning}) as log:
        log.metrics(1, {"bm": 0.5, "data_wait": 0.1})
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert meaning.encode() in content and MEANINGS["data_wait"].encode() in content
