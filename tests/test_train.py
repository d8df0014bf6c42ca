"""What the loop refuses, and the sentences it refuses it with."""

import math

import jax
import jax.numpy as jnp
import pytest
from helpers.configs import load_config

from picjax import checkpoints, flags, train
from picjax.cli import UserError
from picjax.system import State

# ml_collections loads config files by a method that importlib will drop.
LOADER = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.mark.parametrize("key", ["steps", "log_every", "save_every", "keep"])
def test_counts_below_one_are_refused_by_name(key):
    config = load_config("picmm", "tiny")
    config[key] = 0
    with pytest.raises(UserError, match=f"config.{key} is 0; make it at least 1"):
        train.check_config(config)


def test_nan_names_step_metric_and_the_good_checkpoint():
    train.check_finite(7, {"rec": 1.0}, 5)
    with pytest.raises(UserError, match="rec is not finite at step 7; checkpoint 5"):
        train.check_finite(7, {"rec": math.nan, "bm": 0.0}, 5)
    with pytest.raises(UserError, match="bm is not finite at step 1; none is kept"):
        train.check_finite(1, {"bm": math.inf}, -1)


def test_spoilt_parameters_are_never_saved():
    good = State(jnp.int32(1), {"net": jnp.ones(3)}, {}, {}, {})
    train.check_finite_state(1, good, 0)
    bad = good.replace(params={"net": jnp.array([1.0, jnp.nan])})
    with pytest.raises(UserError, match="a parameter is not finite at step 2"):
        train.check_finite_state(2, bad, 0)


@LOADER
def test_misspelt_keys_get_a_suggestion():
    file = "configs/picmm.py:tiny"
    words = ["train", f"--config={file}", "--config.opt.lrr=1"]
    said = flags.explain(words, file, ValueError("x"))
    assert said.startswith("--config.opt.lrr is no key of configs/picmm.py")
    assert said.endswith("did you mean --config.opt.lr?")


@LOADER
def test_unknown_variant_is_said_in_one_line():
    file = "configs/picmm.py:smal"
    said = flags.explain(["train", f"--config={file}"], file, ValueError("x"))
    assert "variant 'smal' is none of photos" in said and "\n" not in said


def test_another_config_is_refused_with_both_values(tmp_path):
    config = load_config("picmm", "tiny")
    checkpoints.write_config(tmp_path, config)
    checkpoints.check_same_config(config, tmp_path)
    config.steps, config.log_every = 99, 7  # these may change
    checkpoints.check_same_config(config, tmp_path)
    config.model.ngf = 6
    with pytest.raises(UserError, match=r"model.ngf \(6, was 4\)"):
        checkpoints.check_same_config(config, tmp_path)


def test_reading_what_is_no_workdir(tmp_path):
    with pytest.raises(UserError, match="is not a workdir"):
        checkpoints.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"config": ')
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.read_config(tmp_path)


def test_config_of_an_older_version_names_the_missing_key():
    config = load_config("picmm", "tiny")
    del config.opt["decay"]
    with pytest.raises(UserError, match="lacks a key .*decay"):
        checkpoints.abstract_state(config)


def test_description_counts_parameters():
    params = {"net": {"w": jnp.ones((1000, 1000))}}
    state = State(jnp.int32(0), params, {}, {}, {})
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"))
    assert train.describe(state, mesh).startswith("net 1.00 M parameters on 1 ")
