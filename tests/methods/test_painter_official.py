"""guided-diffusion's checkpoints: inferred options, files, import and export."""

# pyright: reportMissingImports=false
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from picjax import checkpoints, convert, saving
from picjax.cli import UserError
from picjax.methods.painter import official as painter
from picjax.methods.painter.classifier import Classifier
from picjax.methods.painter.net import UNet
from picjax.official import replay
from picjax.official.mapping import from_official, regroup_by_net, to_official
from picjax.system import State, inference_variables

KEY = jax.random.key(0)


def random_tensors(net: Any, side: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors of a network under their official names."""
    x, t = jnp.zeros((1, side, side, 3)), jnp.zeros(1)
    y = (jnp.zeros(1, jnp.int32),) if isinstance(net, UNet) and net.classes else ()
    target = jax.eval_shape(net.init, KEY, x, t, *y)
    rng = np.random.default_rng(seed)
    drawn = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), target)
    table = painter.UNET
    if isinstance(net, Classifier):
        table = painter.classifier_table(net.pool)
    tensors = to_official(drawn, table)
    again = from_official(tensors, target, table)
    jax.tree.map(np.testing.assert_array_equal, again, drawn)
    return tensors


def shapes_of(net: Any, side: int = 16) -> dict[str, tuple[int, ...]]:
    return {name: x.shape for name, x in random_tensors(net, side).items()}


@pytest.mark.parametrize(
    ("mult", "blocks", "attention", "resizing", "rest"),
    [
        ((1, 2), 1, (2,), (True, True), {"scale_shift": False, "classes": 5}),
        ((0.5, 1.5), 2, (1,), (False, True), {"width": 64, "out_channels": 3}),
        ((1, 1, 2), 1, (), (False, False), {"scale_shift": False}),
        ((2,), 2, (1,), (True, True), {"out_channels": 3}),
        ((1, 1, 1), 3, (1, 4), (True, True), {}),
    ],
)
def test_options_are_inferred_from_names_and_shapes(
    mult, blocks, attention, resizing, rest
):
    fields = {"width": 32, "mult": mult, "blocks": blocks, "attention": attention}
    fields |= {"resblock_updown": resizing[0], "conv_resample": resizing[1]} | rest
    net = UNet(head_width=32, **fields)
    factors, options = painter.unet_options(shapes_of(net))
    assert factors == attention
    expected = {name: getattr(net, name) for name in options if name in fields}
    expected |= {
        "learn_sigma": net.out_channels == 6,
        "scale_shift": net.scale_shift,
        "classes": net.classes or 0,
    }
    assert options == expected
    assert all(type(m) is type(n) for m, n in zip(options["mult"], mult, strict=True))


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_the_pool_is_inferred_from_names(pool):
    net = Classifier(32, (1, 1), 1, (2,), 32, classes=5, pool=pool)
    assert painter.classifier_options(shapes_of(net)) == {
        "classifier_classes": 5,
        "classifier_width": 32,
        "classifier_pool": pool,
    }
    with pytest.raises(UserError, match="holds a classifier; name it classifier.pt"):
        painter.unet_options(shapes_of(net))


def test_other_checkpoints_are_rejected_by_name():
    shapes = shapes_of(UNet(32, (1, 1), 1, (), 32))
    cases: dict[str, dict[str, tuple[int, ...]]] = {
        "latent diffusion": {
            f"model.diffusion_model.{n}": s for n, s in shapes.items()
        },
        "of diffusers": {"down_blocks.0.resnets.0.conv1.weight": (32, 32, 3, 3)},
        "super-resolution": shapes | {"input_blocks.0.0.weight": (32, 6, 3, 3)},
        r"no network of .*fc1": {"fc1.weight": (3, 3)},
        "neither 3 nor 6": shapes | {"out.2.weight": (4, 32, 3, 3)},
        "7 input blocks": shapes | {"input_blocks.6.0.in_layers.0.weight": (32,)},
    }
    for message, changed in cases.items():
        with pytest.raises(UserError, match=message):
            painter.unet_options(changed)
    with pytest.raises(UserError, match="not one of guided-diffusion"):
        painter.classifier_options(shapes)


def test_settings_of_the_user_are_not_overridden():
    config = convert.make_config("painter", "tiny", [])
    shapes = shapes_of(UNet(64, (1, 1), 1, (2,), 32))
    fitted = painter.fit(config, {"unet": shapes}, [])
    # Feature maps of half the image's size.
    assert (fitted.model.width, tuple(fitted.model.attention)) == (64, (4,))
    assert config.model.width == 32
    with pytest.raises(UserError, match="model.width is 32, where the file has 64"):
        painter.fit(config, {"unet": shapes}, ["model.width"])
    deep = shapes_of(UNet(32, (1,) * 5, 1, (), 32))
    with pytest.raises(UserError, match="halves an image 4 times"):
        painter.fit(config, {"unet": deep}, [])


def test_moments_of_16_bit_training_are_split_by_parameter():
    shapes = {"a": (2, 3), "b": (2,), "c": (3, 1), "d": (1,)}
    arrays = {n: np.random.default_rng(0).random(s) for n, s in shapes.items()}
    flat = [
        np.concatenate([arrays[n].ravel() for n in group]) for group in ("bd", "ac")
    ]
    for moments in (list(arrays.values()), [flat[0], flat[1][None]]):
        found = painter.by_name(moments, shapes)
        for name, x in arrays.items():
            np.testing.assert_array_equal(found[name], x)
    with pytest.raises(UserError, match="has 3 parameters, the network's 4"):
        painter.by_name(list(arrays.values())[:3], shapes)


# ---- files ----


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_files_of_a_training_run(tmp_path):
    last = ["model20.pt", "ema_0.9999_20.pt", "opt20.pt", "256x256_classifier.pt"]
    paths = touch(tmp_path, *last, "model000010.pt", "opt000010.pt")
    roles = dict(
        zip(("unet", "ema", "opt", "classifier"), map(Path, paths), strict=False)
    )
    assert painter.find_files([str(tmp_path)]) == roles
    assert painter.find_files(paths[:4]) == roles
    assert painter.find_files(paths[1:2]) == {"unet": Path(paths[1])}
    (places,) = touch(tmp_path, "places256_300000.pt")
    assert painter.find_files([places]) == {"unet": Path(places)}
    for sources, message in [
        ([paths[0], paths[5]], "of steps 000010 and 20"),
        ([paths[0], places], "are both the network"),
        ([paths[2]], "holds no network"),
        ([paths[1], paths[2]], "holds no network"),
        ([str(tmp_path / "absent.pt")], "does not exist"),
    ]:
        with pytest.raises(UserError, match=message):
            painter.find_files(sources)


def test_a_training_run_is_imported_and_exported(tmp_path, capsys):
    """Networks, average and Adam's state as guided-diffusion writes them."""
    torch = pytest.importorskip("torch")
    unet = UNet(32, (1, 1), 1, (2,), 32, scale_shift=False)
    nets = [random_tensors(unet, 8, seed) for seed in range(4)]
    classifier = random_tensors(
        Classifier(64, (1, 1), 1, (2,), 64, classes=5, pool="adaptive"), 8
    )

    def save(name: str, tensors: Any) -> Path:
        torch.save(tensors, tmp_path / name)
        return tmp_path / name

    def loaded(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: torch.from_numpy(x) for name, x in tensors.items()}

    each = zip(loaded(nets[2]).values(), loaded(nets[3]).values(), strict=True)
    state = {
        i: {"step": torch.tensor(7.0), "exp_avg": m, "exp_avg_sq": v}
        for i, (m, v) in enumerate(each)
    }
    adam = {"state": state, "param_groups": [{"params": list(state), "lr": 1e-4}]}
    paths = [
        save("model000007.pt", loaded(nets[0])),
        save("ema_0.9999_000007.pt", loaded(nets[1])),
        save("opt000007.pt", adam),
        save("classifier.pt", loaded(classifier)),
    ]
    run, back = tmp_path / "run", tmp_path / "back"
    words = ["--system=painter", "--dataset=tiny", "--from", *map(str, paths)]
    words += [f"--config.model.classifier_{key}" for key in ("mult=(1,1)", "blocks=1")]
    words += ["--config.model.classifier_attention=(4,)", f"--out={run}"]
    convert.main(words)
    printed = capsys.readouterr().out
    assert "model.scale_shift (False, was True)" in printed
    assert "head_width 32" in printed and "qkv_order legacy" in printed
    assert f"with its average from {paths[1]}" in printed
    assert f"with its optimiser from {paths[2]}" in printed
    config = checkpoints.read_config(run)
    assert config.model.scale_shift is False and config.model.classifier_classes == 5
    with saving.Checkpoints(run, 1, "") as saved:
        restored = saved.restore(checkpoints.abstract_state(config))
    assert isinstance(restored, State) and int(restored.step) == 0
    nodes = jax.tree.leaves(restored.opt["adamw"], is_leaf=is_adam)
    (moments,) = (node for node in nodes if is_adam(node))
    assert int(moments.count) == 7
    trees = [restored.params["unet"], restored.ema["unet"]]
    trees += [moments.mu["unet"], moments.nu["unet"]]
    for tree, tensors in zip(trees, nets, strict=True):
        assert_same(to_official({"params": tree}, painter.UNET), tensors)
    convert.main(["--to=pytorch", f"--from={run}", f"--out={back}"])
    for name, tensors in (("unet", nets[1]), ("classifier", classifier)):
        written = torch.load(back / f"{name}.pt", weights_only=True)
        assert_same({n: x.numpy() for n, x in written.items()}, tensors)


def is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        np.testing.assert_array_equal(ours[name], x, err_msg=name)


def test_the_networks_of_an_import_are_checked():
    config = convert.make_config("painter", "tiny", [])
    rng = np.random.default_rng(0)
    state = checkpoints.abstract_state(config)
    variables = regroup_by_net(inference_variables(state))
    variables = jax.tree.map(
        lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape, np.float32)),
        variables,
    )
    size = config.image_size
    given = {
        "x": rng.standard_normal((2, 3, size, size), np.float32),
        "t": np.array([3, 700]),
    }
    nets = replay.networks(config)
    x, t = jnp.asarray(given["x"].transpose(0, 2, 3, 1)), jnp.asarray(given["t"])
    out = np.asarray(nets["unet"].apply(variables["unet"], x, t))
    out = out + np.float32(1e-6)  # rounding
    recording = replay.Recording(Path("x"), given, {"unet": out.transpose(0, 3, 1, 2)})
    assert replay.check(config, variables, recording)["unet"] < 1e-4
    wrong = recording._replace(expected={"unet": recording.expected["unet"] + 0.1})
    with pytest.raises(UserError, match="unet differs by 0.1"):
        replay.check(config, variables, wrong)
