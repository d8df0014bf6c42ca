"""No step has two lines after a resume, and half a line is no line."""

import json

import numpy as np
from PIL import Image

from picjax.log import Log, drop_later_lines, duration


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_after_the_restored_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": i, "seconds": 2.0 * i}) + "\n" for i in range(1, 5)]
    path.write_text("".join(lines) + '{"step": 5, "sec')
    assert drop_later_lines(path, 3) == 6.0
    assert steps(path) == [1, 2, 3]
    assert drop_later_lines(tmp_path / "absent.jsonl", 3) == 0.0


def test_log_goes_on_where_it_was(tmp_path):
    for start in (0, 2):  # the second run begins again at step 2
        with Log(tmp_path, start, 4, batch_size=8) as log:
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
