"""Evaluation during training: its numbers, that it disturbs nothing, the best step."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config

from picjax import checkpoints, loop, methods, sharding, train
from picjax.cli import UserError
from picjax.evaluation import monitor
from picjax.evaluation.examples import Sampling, model_examples
from picjax.evaluation.metrics import catalog
from picjax.evaluation.metrics.networks import Networks, Settings
from picjax.model import Model
from picjax.signals import Interrupted
from picjax.system import State, System, inference_variables

STEPS = 6


class Walk(System):
    """A random walk of one number that depends on the data and on the key."""

    def init(self, batch, key):
        def level(value):
            return {"net": {"level": jnp.float32(value)}}

        count = {"net": {"count": jnp.int32(0)}}
        return State(jnp.int32(0), level(0), {"net": {}}, count, level(0.1))

    def step(self, state, batch, key):
        """The average follows slowly."""
        moved = state.params["net"]["level"] + 0.3 * jax.random.normal(key)
        moved += 0.1 * batch["image"].mean()
        level = {"net": {"level": moved}}
        slow = jax.tree.map(lambda a, b: 0.8 * a + 0.2 * b, state.ema, level)
        new = state.replace(step=state.step + 1, params=level, ema=slow)
        return new, {"loss": jnp.square(moved)}

    def sample(self, variables, batch, key, n):
        b, *size = batch["image"].shape
        noise = 0.05 * jax.random.normal(key, (b, n, *size))
        return jnp.clip(variables["params"]["net"]["level"] + noise, -1, 1)

    def evaluate(self, variables, batch, key):
        return {}


SYSTEM = Walk()


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(methods, "make", lambda _: SYSTEM)
    config = load_config("picmm", "tiny")
    config.data.update(name="scenes", flip=False)
    config.update(steps=STEPS, save_every=2, log_every=3, sample_every=0, keep=1)
    config.eval.update(every=2, metrics="l1,psnr,posterior", images=9, num=2)
    config.best = "eval/psnr_hole"
    return config


def lines(workdir):
    """What was logged, without the clock's."""
    clock = {"seconds", "images_per_second", "data_wait"}
    text = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in clock} for x in text]


def test_numbers_are_those_of_the_command_and_disturb_nothing(
    config, tmp_path, monkeypatch
):
    state = train.train(config, tmp_path / "watched")
    logged = lines(tmp_path / "watched")
    assert [line["step"] for line in logged] == [2, 3, 4, 6]
    assert "eval/l1_hole" not in logged[1]
    model = Model(config, SYSTEM, inference_variables(state), STEPS)
    metrics = catalog.create(["l1", "psnr", "posterior"], Networks(Settings()))
    for example in model_examples(model, Sampling(2), 9, batch_size=4):
        for metric in metrics.values():
            metric.add(example)
    for metric in metrics.values():
        for r in metric.results():
            if r.samples == "mean" and r.region == "hole":
                assert logged[-1][f"eval/{r.metric}_hole"] == pytest.approx(r.value)
    assert 0 <= logged[-1]["eval/posterior/valid"] <= 1
    # The best of all saves is kept beside the newest.
    scored = {x["step"]: x["eval/psnr_hole"] for x in logged if "eval/psnr" in x}
    best = max(scored, key=lambda at: scored[at])
    kept = {int(path.name) for path in (tmp_path / "watched/checkpoints").iterdir()}
    assert kept == {STEPS, best}
    assert checkpoints.restore_variables(tmp_path / "watched", "best")[2] == best

    config.eval.every, config.best = 0, ""
    alone = train.train(config, tmp_path / "alone")
    jax.tree.map(np.testing.assert_array_equal, alone, state)

    # Stopped between two evaluations and resumed: as if undisturbed.
    config.eval.every, config.best = 2, "eval/psnr_hole"

    @contextlib.contextmanager
    def stop():
        yield lambda at: at == 3

    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_on_signal", stop)
        with pytest.raises(Interrupted, match="saved at step 3; the same command"):
            train.train(config, tmp_path / "stopped")
    resumed = train.train(config, tmp_path / "stopped")
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
    assert lines(tmp_path / "stopped") == logged


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"eval.metrics": "psnrr"}, "did you mean 'psnr'"),
        ({"eval.metrics": "likelihood", "best": ""}, "pixelcnn"),
        ({"data.name": "photos", "eval.metrics": "posterior"}, "scenes"),
        ({"best": "eval/ssim"}, "config.best 'eval/ssim' is not measured"),
        ({"eval.every": 0}, "is not measured"),
        ({"best": "eval/diversity"}, "is not a metric with a better end; take eval/"),
        (
            {"best": "eval/pr", "eval.metrics": "pr"},
            "is not a metric with a better end",
        ),
        (
            {"best": "eval/fid_hole", "eval.metrics": "fid"},
            "is not a metric with a better end",
        ),
        ({"eval.metrics": "is", "eval.images": 9}, "is needs 10 images"),
        ({"save_every": 3}, "no multiple of config.eval.every 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, change, what):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=what):
        monitor.check(config, SYSTEM)


def test_weights_are_loaded_before_training(config, tmp_path, offline):
    config.update_from_flattened_dict({"eval.metrics": "fid", "best": ""})
    with pytest.raises(UserError, match="cannot be fetched"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()
    config.eval.every = 0
    monitor.make_monitor(config, SYSTEM, sharding.make_mesh())  # needs no weights


def test_a_logged_metric_may_choose_the_best(config):
    config.update_from_flattened_dict({"eval.metrics": "pr", "best": "eval/recall"})
    monitor.check(config, SYSTEM)
    config.update_from_flattened_dict({"eval.metrics": "basic", "best": "eval/l1_hole"})
    config.data.name = "photos"
    monitor.check(config, SYSTEM)
    names = monitor.metric_names(config, SYSTEM)
    assert names == ["l1", "psnr", "ssim", "tv", "diversity", "seam"]


def test_a_save_without_the_metric_is_never_the_best():
    assert checkpoints.badness("eval/psnr_hole", {"eval/psnr_hole": 20.0}) == -20
    assert checkpoints.badness("rec", {"rec": 2.0}) == 2
    assert checkpoints.badness("eval/psnr", {"rec": 2.0}) == float("inf")
