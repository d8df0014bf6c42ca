"""Official tensors and variables: every tensor is used exactly once, in both directions."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.convert import (
    REFERENCE,
    TINY,
    assert_same_files,
    exported,
    first_variables,
    tiny_run,
    touch,
)

from picjax import checkpoints, convert, methods, train
from picjax.cli import UserError
from picjax.official import mapping, originals
from picjax.official.mapping import regroup_by_net
from picjax.system import inference_variables


def official_files(system: str) -> dict[str, dict[str, np.ndarray]]:
    """Files with the published names and shapes and random numbers, by net."""
    rng = np.random.default_rng(0)
    contents = {}
    with np.load(REFERENCE / system / "state_dict_manifest.npz") as listed:
        for suffix, net in originals.official(system).FILES.items():
            tensors: dict[str, np.ndarray] = {}
            for name, shape, dtype, first in json.loads(
                str(listed[f"manifest/{suffix}"])
            ):
                drawn = np.asarray(100 * rng.random(shape, np.float32)).astype(dtype)
                tensors[name] = tensors[first] if first else drawn
            contents[net] = {f"module.{name}": x for name, x in tensors.items()}
    return contents


@pytest.fixture
def tiny():
    return tiny_run()


@pytest.fixture
def tensors(tiny):
    return {net: dict(named) for net, named in tiny[2].items()}


@pytest.mark.parametrize("system", ["picmm", "picnet"])
def test_there_and_back_at_the_published_widths(system):
    config = convert.make_config(system, "", [])
    theirs = official_files(system)
    variables = convert.read_nets(config, theirs)
    assert_same_files(exported(config, variables), theirs)
    bare = {
        net: {name.removeprefix("module."): x for name, x in named.items()}
        for net, named in theirs.items()
    }
    again = convert.read_nets(config, bare)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_second_names_that_disagree_name_the_net(tiny, tensors):
    alias = "module.decoder0.model.5.module.weight_bar"
    tensors["generator"][alias] = tensors["generator"][alias] + 1
    with pytest.raises(UserError, match="^generator: .*decoder0.model.5.*differ"):
        convert.read_nets(tiny[0], tensors)


def test_both_sides_of_a_mismatch_are_listed(tiny, tensors):
    encoder = tensors["encoder"]
    encoder["module.stray"] = encoder.pop("module.down_fc.0.bias")
    with pytest.raises(UserError, match=r"down_fc.0.bias.*lacks.*\(stray\)"):
        convert.read_nets(tiny[0], tensors)


def test_another_width_is_refused(tensors):
    config = convert.make_config("picmm", "tiny", [*TINY, "--config.model.ngf=6"])
    with pytest.raises(UserError, match=r"^encoder: .*\(3, 3, 3, 4\) here"):
        convert.read_nets(config, tensors)


@pytest.mark.parametrize(
    ("setting", "fitting"),
    [
        ("model.mixture.k=3", "--config.model.mixture.k=2"),
        ("model.ngf=8", "--config.model.ngf=4"),
        ("model.ndf=8", "--config.model.ndf=4"),
    ],
)
def test_a_mismatch_names_the_file_and_the_setting_that_fits(setting, fitting, tensors):
    config = convert.make_config("picmm", "tiny", [*TINY, f"--config.{setting}"])
    paths = {net: Path(f"20000_net_{net}.pth") for net in tensors}
    with pytest.raises(UserError, match=f"^'20000_net_.*the files have {fitting}$"):
        convert.read_nets(config, tensors, paths)


def test_settings_that_files_of_picnet_and_pix2pix_determine():
    for system, variant, change in [
        ("picnet", "tiny", {"z_nc": 6, "encoder_depth": 2, "ngf": 8}),
        ("pix2pix", "tiny", {"ngf": 6, "ndf": 8, "norm": "instance", "bias": True}),
        ("pix2pix", "half32_pixel", {"generator": "resnet", "blocks": 6, "ngf": 4}),
    ]:
        settings = [f"--config.model.{key}={value}" for key, value in change.items()]
        settings += TINY[:1] if system == "picnet" else []
        config = convert.make_config(system, variant, settings)
        module, state = originals.official(system), checkpoints.abstract_state(config)
        shapes = {}
        for net, table in module.tables(config).items():
            tree = {"params": state.params[net], "stats": state.stats.get(net, {})}
            zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)
            named = mapping.to_official(zeros, table)
            shapes[net] = {name: x.shape for name, x in named.items()}
        found = module.settings_of(shapes)
        for key in change.keys() - {"bias"}:
            assert found[f"model.{key}"] == config.model[key], (system, key)
        assert all(
            config.model[key.removeprefix("model.")] == value
            for key, value in found.items()
        )


def test_instance_norms_of_2018_are_read_as_the_original_reads_them():
    """Their files hold running statistics, which the original's loader drops."""
    settings = ["--config.model.norm=instance", "--config.model.bias=True"]
    config = convert.make_config("pix2pix", "tiny", settings)
    state = checkpoints.abstract_state(config)
    tree = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), state.params["generator"])
    tensors = convert.export(config, {"generator": {"params": tree, "stats": {}}})
    (file,) = tensors.values()
    old = file | {
        "model.model.1.model.2.running_mean": np.zeros(8, np.float32),
        "model.model.1.model.2.running_var": np.ones(8, np.float32),
        "model.model.1.model.2.num_batches_tracked": np.array(7),
    }
    for named in (file, old):
        read = convert.read_nets(config, {"generator": named})["generator"]["params"]
        jax.tree.map(np.testing.assert_array_equal, read, tree)
    config.model.update(norm="batch", bias=False)
    with pytest.raises(UserError, match="the files have.*--config.model.norm=instance"):
        convert.read_nets(config, {"generator": old})


def test_spectral_vectors_that_have_not_converged_are_found(tiny):
    config, _, _ = tiny
    kernel = np.zeros((1, 1, 3, 4), np.float32)
    kernel[0, 0, 0, 0], kernel[0, 0, 1, 1] = 3, 1
    u, v = np.eye(4, dtype=np.float32)[0], np.eye(3, dtype=np.float32)[0]
    for mixed, found in [((1.0, 0.0), {}), ((0.8, 0.6), {"encoder/block0/conv1"})]:
        a, b = mixed
        layer = {"u": a * u + b * np.roll(u, 1), "v": a * v + b * np.roll(v, 1)}
        trees = {
            "params": {"block0": {"conv1": {"kernel": kernel}}},
            "stats": {"block0": {"conv1": layer}},
        }
        moving = convert.moving_spectra(config, {"encoder": trees})
        assert moving.keys() == set(found)
    assert moving["encoder/block0/conv1"] == pytest.approx(0.2, abs=0.2)


def test_another_network_is_refused(tiny, tensors):
    tensors["generator"] = tensors["encoder"]
    with pytest.raises(UserError, match="^generator: .*attn1.alpha.*lacks.*block0"):
        convert.read_nets(tiny[0], tensors)


def test_batch_counts_may_be_missing_as_before_pytorch_0_4_1(tiny, tensors):
    config, variables, _ = tiny
    old = {n: x for n, x in tensors["mixture"].items() if "num_batches" not in n}
    assert len(old) == len(tensors["mixture"]) - 3
    read = convert.read_nets(config, tensors | {"mixture": old})
    jax.tree.map(np.testing.assert_array_equal, read["mixture"], variables["mixture"])


def test_a_net_that_completion_needs_must_be_given(tiny, tensors):
    del tensors["mixture"]
    with pytest.raises(UserError, match="no file holds the mixture.*latest_net_GMM"):
        convert.read_nets(tiny[0], tensors)


def test_a_discriminator_not_given_is_the_one_training_begins_with(tiny):
    config, variables, _ = tiny
    given = {net: tree for net, tree in variables.items() if net != "discriminator"}
    changed = jax.tree.map(lambda x: x + 1, given)
    state = convert.first_state(config, changed)
    assert int(state.step) == 0 and state.opt
    made = regroup_by_net(inference_variables(state))
    system, shapes = methods.make(config), checkpoints.abstract_batch(config)

    @jax.jit
    def drawn():
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        first = system.init(batch, train.init_key(config.seed))
        return regroup_by_net(inference_variables(first))["discriminator"]

    whole = changed | {"discriminator": drawn()}
    # Two programs draw the discriminator: the last bit is free.
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, made, whole)


@pytest.mark.parametrize(
    ("system", "setting"),
    [
        ("picmm", "model.mixture.norm=layer"),
        ("picmm", "model.log_std_start=-1.0"),
        ("picnet", "model.upsample=nearest"),
        ("pix2pix", "model.bias=True"),
    ],
)
def test_networks_that_the_original_does_not_have(system, setting):
    config = convert.make_config(system, "", [f"--config.{setting}"])
    with pytest.raises(UserError, match=f"{setting.split('=')[0]} is .* the original"):
        convert.export(config, {})


def test_a_u_net_with_fewer_levels_than_the_original_can_have():
    settings = ["--config.image_size=16", "--config.model.patch_layers=1"]
    config = convert.make_config("pix2pix", "", settings)
    with pytest.raises(UserError, match="4 levels, where the original has at least 5"):
        convert.export(config, {})


def test_a_single_generator_of_any_name_and_age(tmp_path):
    """`facades_label2photo.pth`: no prefix, perhaps no count of batches, no judge."""
    sources = touch(tmp_path, "facades_label2photo.pth")
    assert originals.find_files(sources, "pix2pix") == {"generator": Path(sources[0])}
    assert originals.find_files([str(tmp_path)], "pix2pix").keys() == {"generator"}
    config = convert.make_config("pix2pix", "tiny", ["--config.model.bias=False"])
    variables = first_variables(config)
    tensors = exported(config, variables)["generator"]
    assert all(name.startswith("model.model.") for name in tensors)
    old = {name: x for name, x in tensors.items() if "num_batches" not in name}
    assert len(old) < len(tensors)
    for file in (tensors, old):
        read = convert.read_nets(config, {"generator": file})["generator"]
        jax.tree.map(np.testing.assert_array_equal, read, variables["generator"])
