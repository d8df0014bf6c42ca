"""An interrupted evaluation of a run resumes with the completions that it has drawn."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.configs import load_config
from helpers.evaluation import center, evaluate, picture, read_metrics, save
from helpers.fake_system import SIZE, make_model

from picjax import eval as command
from picjax import sharding
from picjax.evaluation import run, store, tasks
from picjax.evaluation.options import resolve
from picjax.evaluation.store import CompletionStore


class Killed(BaseException):
    """Stands for a kill: nothing handles it."""


@pytest.fixture
def counted(model):
    """The model, with the number of images that it has completed."""
    return count_drawn(model)


def count_drawn(model):
    draw, drawn = model.sample, []

    def sample(*args, **options):
        completions = draw(*args, **options)
        drawn.append(len(completions.pixels))
        return completions

    model.sample, model.drawn = sample, drawn
    return model  # of any type: `drawn` is added


def interrupt(monkeypatch, *words: object, after: int) -> None:
    """Runs an evaluation that is killed while it measures an image."""
    with monkeypatch.context() as patch:
        add = run.Recorder.add

        def killed(self, example, columns):
            if len(self.entries) == after:
                raise Killed
            add(self, example, columns)

        patch.setattr(run.Recorder, "add", killed)
        with pytest.raises(Killed):
            evaluate(*words)


WORDS = ("--workdir=run", "--num=2", "--images=20", "--metrics=l1,ssim,diversity")


def test_it_ends_like_an_undisturbed_one(tmp_path, counted, monkeypatch, capsys):
    evaluate(*WORDS, "--out", tmp_path / "whole")
    total = sum(counted.drawn)
    counted.drawn.clear()
    out = tmp_path / "out"
    interrupt(monkeypatch, *WORDS, "--out", out, after=9)
    assert sorted(os.listdir(out)) == ["baselines", "completions"]
    assert len(list((out / "completions").glob("*.npz"))) == 16  # two batches of 8
    before = sum(counted.drawn)
    counted.drawn.clear()
    capsys.readouterr()
    evaluate(*WORDS, "--out", out)
    assert "completions of 16 images" in capsys.readouterr().err
    assert before == total and sum(counted.drawn) == 8  # the last, of three batches
    for name in os.listdir(tmp_path / "whole"):
        ours, whole = ((tmp_path / d / name).read_bytes() for d in ("out", "whole"))
        assert ours == whole, name
    assert not (out / "completions").exists()


def test_what_another_process_has_drawn_is_not_drawn_again(
    tmp_path, counted, monkeypatch, capsys
):
    """The second of two draws the last of three batches, and measures nothing."""
    with monkeypatch.context() as second:
        second.setattr(jax, "process_index", lambda: 1)
        second.setattr(jax, "process_count", lambda: 2)
        second.setattr(sharding, "wait_for_all", lambda point: None)
        evaluate(*WORDS, "--out", tmp_path)
    assert os.listdir(tmp_path) == ["completions"]
    assert "process 2 of 2 has drawn the completions of 4 images" in (
        capsys.readouterr().err
    )
    evaluate(*WORDS, "--out", tmp_path)
    assert counted.drawn == [8, 8, 8] and (tmp_path / "metrics.json").exists()


def test_completions_of_another_protocol_are_dropped(
    tmp_path, counted, monkeypatch, capsys
):
    out = tmp_path / "out"
    interrupt(monkeypatch, *WORDS, "--out", out, after=3)
    capsys.readouterr()
    evaluate("--workdir=run", "--num=1", "--images=20", "--metrics=l1", "--out", out)
    assert capsys.readouterr().err.count("belongs to another evaluation") == 1
    protocol = read_metrics(out)["protocol"]
    assert (protocol["images"], protocol["samples_per_image"]) == (20, 1)


def test_other_metrics_use_the_same_completions(tmp_path, counted, monkeypatch):
    out = tmp_path / "out"
    interrupt(monkeypatch, *WORDS, "--out", out, after=19)
    counted.drawn.clear()
    evaluate(*WORDS[:-1], "--metrics=tv", "--out", out)
    assert counted.drawn == [] and list(read_metrics(out)["results"]) == ["tv"]


def test_a_replaced_checkpoint_starts_anew(tmp_path, counted, monkeypatch, capsys):
    """Also if it is of the same step."""
    checkpoint = tmp_path / "run/checkpoints/7"
    checkpoint.mkdir(parents=True)
    os.utime(checkpoint, ns=(1, 1))
    words = (f"--workdir={tmp_path / 'run'}", *WORDS[1:])
    interrupt(monkeypatch, *words, after=3)
    task = tmp_path / "run/eval/completions/task.json"
    assert json.loads(task.read_text())["step"] == 7
    later = task.stat().st_mtime_ns + 10**9
    os.utime(checkpoint, ns=(later, later))
    capsys.readouterr()
    evaluate(*words)
    assert "starting anew" in capsys.readouterr().err


def test_replaced_images_and_masks_are_completed_anew(tmp_path, monkeypatch):
    """Only these: the others keep what was drawn, and every number is of the new."""
    fake: Any = count_drawn(make_model())
    fake.config.data = load_config("picmm", "tiny").data
    monkeypatch.setattr(tasks, "load", lambda *_: fake)
    monkeypatch.setattr("picjax.evaluation.examples.BATCH", 1)
    for k in range(3):
        save(tmp_path / f"real/{k}.png", picture(k))
        save(tmp_path / f"masks/{k}.png", (1 - center()[..., 0]) * np.uint8(255))
    words = [f"--real={tmp_path / 'real'}", f"--mask={tmp_path / 'masks'}", "--num=1"]
    words += [f"--workdir={tmp_path / 'run'}", "--metrics=l1"]
    for changed in (None, "real/1.png", "masks/2.png"):
        interrupt(monkeypatch, *words, after=2)
        if changed:
            stripes = np.tile(picture(9)[:, :1], (1, SIZE, 1))
            save(tmp_path / changed, stripes)
        fake.drawn.clear()
        evaluate(*words)
        assert sum(fake.drawn) == (1 if changed else 0), changed
        resumed = read_metrics(tmp_path / "run/eval")["results"]
        evaluate(*words, f"--out={tmp_path / 'whole'}")
        assert resumed == read_metrics(tmp_path / "whole")["results"], changed


def test_nothing_is_lost_before_the_reports_are_written(tmp_path, counted, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("picjax.eval.page.write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate(*WORDS, "--out", out)
    counted.drawn.clear()
    evaluate(*WORDS, "--out", out)
    assert counted.drawn == [] and (out / "report.html").exists()


def test_a_truncated_task_starts_anew(tmp_path, counted, monkeypatch, capsys):
    out = tmp_path / "out"
    interrupt(monkeypatch, *WORDS, "--out", out, after=3)
    (out / "completions/task.json").write_text('{"num"')
    evaluate(*WORDS, "--out", out)
    assert "starting anew" in capsys.readouterr().err


def test_completions_that_do_not_fit_the_disk_are_not_kept(
    tmp_path, monkeypatch, capsys
):
    usage = store.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    full = CompletionStore(tmp_path / "completions", {}, Path("none"), (2, 4, 4, 3))
    full.open(6)
    full.save(["0"], np.zeros((1, 2, 4, 4, 3), np.uint8))
    assert "too much for the disk" in capsys.readouterr().err
    assert full.load(["0"]) is None and not full.folder.exists()
    fitting = CompletionStore(full.folder, {}, Path("none"), (2, 4, 4, 3))
    fitting.open(4)
    samples = np.random.default_rng(0).integers(0, 9, (1, 2, 4, 4, 3), np.uint8)
    fitting.save(["0"], samples)
    np.testing.assert_array_equal(fitting.load(["0"]), samples)


def test_an_evaluation_of_a_replaced_checkpoint_is_not_finished(tmp_path, model):
    checkpoint = tmp_path / "run/checkpoints/7"
    checkpoint.mkdir(parents=True)
    words = ["--workdir", tmp_path / "run", "--images=1", "--num=1", "--metrics=l1"]
    evaluate(*words)
    out = tmp_path / "run/eval"

    def finished(*more: str) -> bool:
        options = command.parse([str(word) for word in (*words, *more)])
        resolve(options)
        return tasks.run_task(options, str(tmp_path / "run"), "run", out).is_finished()

    assert finished() and not finished("--seed=1") and not finished("--metrics=tv")
    later = (out / "metrics.json").stat().st_mtime_ns + 10**9
    os.utime(checkpoint, ns=(later, later))
    assert not finished()


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "other shape"])
def test_damaged_completions_are_drawn_again(how, tmp_path, capsys):
    kept = CompletionStore(tmp_path / "c", {}, Path("none"), (2, 4, 4, 3))
    kept.open(1)
    samples = np.random.default_rng(0).integers(0, 9, (1, 2, 4, 4, 3), np.uint8)
    kept.save(["0"], samples)
    (path,) = (tmp_path / "c").glob("0.*")
    whole = path.read_bytes()
    place = whole.index(samples.tobytes()) + 5
    changed = {
        "flipped": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        "cut": whole[: len(whole) // 2],
        "empty": b"",
    }
    if how == "other shape":
        np.savez(path, samples=samples[0, :1])
    else:
        path.write_bytes(changed[how])
    assert kept.load(["0"]) is None and not path.exists()
    assert "drawn again" in capsys.readouterr().err
