"""The errors of the training command and loop."""

import math

import jax
import jax.numpy as jnp
import pytest
from helpers.configs import load_config

from picjax import checkpoints, flags, loop, settings, train
from picjax.cli import UserError
from picjax.masks import mask_drawer
from picjax.system import State

# ml_collections loads config files by a method that importlib will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.mark.parametrize("key", ["steps", "log_every", "save_every", "keep"])
def test_counts_below_one_are_refused_by_name(key):
    config = load_config("picmm", "tiny")
    config[key] = 0
    with pytest.raises(UserError, match=f"config.{key} is 0; give 1 or more"):
        settings.check(config)


def test_nan_names_step_metric_and_the_good_checkpoint():
    loop.check_finite(7, {"rec": 1.0}, 5)
    with pytest.raises(UserError, match="rec is not finite at step 7; checkpoint 5"):
        loop.check_finite(7, {"rec": math.nan, "bm": 0.0}, 5)
    with pytest.raises(UserError, match="bm is not finite at step 1; none is kept"):
        loop.check_finite(1, {"bm": math.inf}, -1)


def test_spoilt_parameters_are_never_saved():
    good = State(jnp.int32(1), {"net": jnp.ones(3)}, {}, {}, {})
    loop.check_finite_state(1, good, 0)
    bad = good.replace(params={"net": jnp.array([1.0, jnp.nan])})
    with pytest.raises(UserError, match="a parameter is not finite at step 2"):
        loop.check_finite_state(2, bad, 0)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--config=configs/picmm.py:tiny", "--config.opt.lrr=1"], "opt.lrr is no key"),
        (["--config=configs/picmm.py:tiny", "--config.opt.lrr=1"], "config.opt.lr?"),
        (["--config=configs/picmm.py:smal"], "variant 'smal' is none of photos"),
        (
            ["--config=picmm:tiny", "--config.steps=many"],
            "--config.steps=many: invalid",
        ),
        (["--config=picmm:tiny", "steps=3"], "'steps=3' is no flag"),
        (["--config=configs/picm.py"], "'configs/picm.py' does not exist"),
        (["--config=picm"], "'picm' does not exist"),
        (["--workdir=x"], "--config is missing"),
    ],
)
def test_wrong_command_lines_are_one_line(words, error):
    with pytest.raises(UserError) as caught:
        flags.parse(words)
    assert error in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["configs/picmm.py", "picmm"])
def test_a_config_is_a_file_or_the_name_of_an_installed_one(name, tmp_path):
    words = [f"--config={name}:tiny-elbo", "--config.data.masks=('top', 'half')"]
    config, workdir = flags.parse([*words, "--config.opt.lr=1"])
    assert str(workdir) == "runs/picmm-tiny-elbo" and config.opt.lr == 1.0
    assert config.data.masks == ("top", "half") and config.model.mixture.k == 2
    _, workdir = flags.parse([*words, f"--workdir={tmp_path}"])
    assert workdir == tmp_path


@pytest.mark.parametrize("text", ["top,half", "(top, half)", "['top', 'half']"])
def test_a_tuple_is_words_with_commas(text):
    config, _ = flags.parse(["--config=picmm:tiny", f"--config.data.masks={text}"])
    assert config.data.masks == ("top", "half")
    setting = f"--config.data.masks={text}"
    assert flags.make_config("picmm", "tiny", [setting]).data.masks == ("top", "half")


@pytest.mark.parametrize("text", ["64,96", "(64, 96)"])
def test_the_image_size_may_be_height_and_width(text):
    word = f"--config.image_size={text}"
    config, _ = flags.parse(["--config=picmm:tiny", word])
    assert tuple(config.image_size) == (64, 96)
    assert flags.make_config("picmm", "tiny", [word]).image_size == (64, 96)
    settings.check(config)
    for wrong in ("64,", "64,96,3"):
        with pytest.raises(UserError, match="image_size"):
            flags.parse(["--config=picmm:tiny", f"--config.image_size={wrong}"])


def test_a_misspelt_name_in_a_tuple_has_its_hint():
    words = ["--config=picmm:tiny", "--config.data.masks=center,haalf"]
    config, _ = flags.parse(words)
    with pytest.raises(UserError, match="mask 'haalf' is none .* mean 'half'"):
        mask_drawer(config.data, (32, 32))
    with pytest.raises(UserError, match="hole_ratio=low,high holds words; give num"):
        flags.parse(["--config=picmm:tiny", "--config.data.hole_ratio=low,high"])


def test_a_config_file_finds_the_shared_settings_from_any_folder(tmp_path, monkeypatch):
    file = flags.locate("pix2pix").resolve()
    copy = tmp_path / "own.py"
    copy.write_text(file.read_text())
    monkeypatch.chdir(tmp_path)
    expected = flags.make_config("pix2pix", "tiny", []).to_dict()
    for path in (file, "own.py"):
        assert flags.parse([f"--config={path}:tiny"])[0].to_dict() == expected


def test_another_config_is_refused_with_both_values(tmp_path):
    config = load_config("picmm", "tiny")
    checkpoints.write_config(tmp_path, config)
    checkpoints.check_same_config(config, tmp_path)
    config.steps, config.log_every = 99, 7  # may change
    checkpoints.check_same_config(config, tmp_path)
    config.model.ngf = 6
    with pytest.raises(UserError, match=r"model.ngf \(6, was 4\)"):
        checkpoints.check_same_config(config, tmp_path)


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a workdir"):
        checkpoints.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"config": ')
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.read_config(tmp_path)


def test_run_that_is_older_than_an_option_has_its_published_value(tmp_path):
    config = load_config("picmm", "tiny")
    older = config.copy_and_resolve_references()
    del older.sampler, older.model["fill"]
    checkpoints.write_config(tmp_path, older)
    read = checkpoints.read_config(tmp_path)
    assert read.to_json(sort_keys=True) == config.to_json(sort_keys=True)
    checkpoints.check_same_config(config, tmp_path)
    config.model.fill = True
    with pytest.raises(UserError, match=r"model.fill \(True, was False\)"):
        checkpoints.check_same_config(config, tmp_path)


def test_missing_key_of_a_config_is_named():
    config = load_config("picmm", "tiny")
    del config.opt["decay"]
    with pytest.raises(UserError, match="lacks a key .*decay"):
        checkpoints.abstract_state(config)


def test_description_counts_parameters():
    params = {"net": {"w": jnp.ones((1000, 1000))}}
    state = State(jnp.int32(0), params, {}, {}, {})
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"))
    assert train.describe(state, mesh).startswith("net 1.00 M parameters on 1 ")
