"""The benchmarks import without PyTorch, and their arithmetic is right."""

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import complete, data, pixelcnn, samplers, step, table
from picjax import convert, methods
from picjax.cli import UserError
from picjax.data import scenes
from picjax.images import to_float
from picjax.methods.inade.system import INADE
from picjax.methods.painter import process
from picjax.methods.painter.resampling import PRESETS, make_plan
from picjax.methods.pixelcnn.net import PixelCNN
from picjax.official.mapping import regroup_by_net
from picjax.system import inference_variables

REFERENCE = Path(__file__).parent / "reference"


def test_benchmarks_import_without_torch_or_a_device():
    names = (
        "complete",
        "data",
        "gpu",
        "gpu_case",
        "large",
        "likelihood",
        "metrics",
        "pixelcnn",
        "pixelcnn_step",
        "step",
        "table",
        "train",
        "unet",
    )
    code = "import sys\n" + "".join(f"import bench.{name}\n" for name in names)
    code += "assert not {'jax', 'torch'} & sys.modules.keys(), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


NAMES = [
    "complete",
    "data",
    "gpu",
    "large",
    "likelihood",
    "metrics",
    "painter",
    "pixelcnn",
]


@pytest.mark.parametrize(
    "name", [*NAMES, "pixelcnn_step", "restore", "samplers", "train", "unet"]
)
def test_help_names_the_json_flag(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"bench.{name}").main()
    assert end.value.code == 0
    assert "--json FILE" in capsys.readouterr().out


def test_runs_take_turns_and_the_warm_up_is_not_counted():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = table.interleave(runs, rounds=3, warmup=2)
    assert order == list("ab" * 5)
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}


def test_ratio_is_the_median_of_the_rounds_own_ratios():
    # The third round was slow for both: it must not count for more than the others.
    assert table.ratio([1.0, 2.0, 100.0], [2.0, 6.0, 150.0]) == 2.0


def test_slope_of_a_line():
    assert table.slope([1, 10, 50], [5.0, 23.0, 103.0]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.01234, "0.0123"), (1234.5, "1,234"), (7, "7"), (None, "-"), ("x", "x")],
)
def test_text(value, expected):
    assert table.text(value) == expected


def test_report_prints_and_writes_the_same_numbers(tmp_path, capsys):
    rows: list[table.Row] = [{"step": "a", "images/s": 1.5}, {"step": "b", "x": 2.25}]
    table.report({"Speed": rows}, {"cores": 2}, str(tmp_path / "out.json"))
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("Speed", "cores 2", "1.5", "2.25", "-"))
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == {"machine": {"cores": 2}, "tables": {"Speed": rows}}


def test_rate_leaves_out_what_was_waiting():
    taken = iter(range(10))
    assert data.rate(taken, batch=8, drain=3, count=5) > 0
    assert next(taken) == 8


def test_host_batch_is_what_the_pipeline_yields():
    batch = step.host_batch(step.Setting("float32", 2, 64))
    assert batch["image"].shape == (2, 64, 64, 3)
    assert batch["image"].dtype == batch["mask"].dtype == np.uint8
    assert 1 - batch["mask"].mean() == 0.25
    assert not batch["mask"][:, 16:48, 16:48].any()


def test_pix2pix_is_given_pairs_of_which_nothing_is_known():
    batch = step.host_batch(step.Setting("float32", 2, 64, "pix2pix"))
    assert batch["condition"].shape == batch["image"].shape == (2, 64, 64, 3)
    assert (batch["condition"] != batch["image"]).any() and not batch["mask"].any()


def test_the_peer_of_picnet_takes_the_official_step():
    pytest.importorskip("torch")
    from bench import torch_picnet

    found = torch_picnet.check(f"{REFERENCE}/picnet/train_step_two_lsgan.npz")
    assert {"app_rec", "kl_g", "ad_d"} <= found.keys()  # and near, as `check` asserts


def test_the_peer_of_pix2pix_loses_what_we_lose():
    """With our weights by their official names; at 32 px nothing drops."""
    torch = pytest.importorskip("torch")
    from bench.torch_pix2pix import Pix2pix

    setting = step.Setting("float32", 2, 32, "pix2pix")
    config = step.jax_config(setting)
    config.model.update(ngf=4, ndf=4)
    system, key = methods.make(config), jax.random.key(0)
    batch = to_float(jax.device_put(step.host_batch(setting)))
    state = jax.jit(system.init)(batch, key)
    peer = Pix2pix(levels=5, ngf=4, ndf=4)
    files = convert.export(config, regroup_by_net(inference_variables(state)))
    for name, net in peer.nets.items():
        tensors = files[f"latest_net_{name}.pth"].items()
        net.load_state_dict({name: torch.from_numpy(x) for name, x in tensors})
    _, ours = jax.jit(system.step)(state, batch, key)
    given = [torch.from_numpy(nchw(batch[name])) for name in ("condition", "image")]
    for name, loss in peer.step(*given).items():
        np.testing.assert_allclose(ours[name.lower()], loss, rtol=1e-4, err_msg=name)


def test_inade_is_given_maps_of_regions():
    batch = step.host_batch(step.Setting("float32", 2, 32, "inade"))
    assert batch["label"].shape == batch["instance"].shape == (2, 32, 32)
    assert not batch["mask"].any()
    for label, instance in zip(batch["label"], batch["instance"], strict=True):
        pairs = {(int(c), int(i)) for c, i in zip(label.flat, instance.flat)}
        assert len(pairs) == len({i for _, i in pairs}) == len({c for c, _ in pairs})
        assert {i for _, i in pairs} == set(range(8)) and label.max() < 19


def test_the_peer_of_inade_loses_what_we_lose():
    """The generator's losses, with our weights by their official names and our noise."""
    torch = pytest.importorskip("torch")
    from bench.torch_inade import Inade

    setting = step.Setting("float32", 2, 32, "inade")
    config = step.jax_config(setting)
    config.model.update(ngf=2, ndf=2, noise_nc=4, z_dim=4)
    system, key = INADE.from_config(config), jax.random.key(0)
    batch = to_float(jax.device_put(step.host_batch(setting)))
    state = jax.jit(system.init)(batch, key)
    draw = system.draw(key, 2)

    @jax.jit
    def losses(state, batch):
        layout = system.layout(batch)
        outputs, _ = system.generate(
            state.params, state.stats, batch["image"], layout, draw
        )
        return system.generator_loss(outputs, state, batch, layout)[1][1]

    ours = losses(state, batch)
    peer = Inade(size=32, ngf=2, ndf=2, noise_nc=4, z_dim=4)
    files = convert.export(config, regroup_by_net(inference_variables(state)))
    for name, net in peer.nets.items():
        tensors = files[f"best_net_{name.removeprefix('I')}.pth"].items()
        net.load_state_dict({name: torch.from_numpy(x) for name, x in tensors})
    latent, style = (torch.from_numpy(np.array(x)) for x in draw)
    noise = latent, style[:, : step.REGIONS]
    image = torch.from_numpy(nchw(batch["image"]))
    label, instance = (
        torch.from_numpy(np.array(batch[name]))[:, None].long()
        for name in ("label", "instance")
    )
    theirs = peer.step(image, label, instance, [noise, noise])
    for name, own in {"KLD": "g_kl", "GAN": "g_gan", "GAN_Feat": "g_feature"}.items():
        np.testing.assert_allclose(ours[own], theirs[name], rtol=1e-4, err_msg=name)


def nchw(x):
    return np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2))


def test_one_more_completion_is_compared_with_the_decoder():
    seconds = {"ours 1": [2.0], "ours 11": [12.0], "peer 1": [4.0], "peer 11": [24.0]}
    seconds |= {"decoder": [0.8]}
    rows, shares = complete.summarise([1, 11], seconds, ["decoder"])
    assert [row["x torch"] for row in rows] == [2.0, 2.0]
    assert shares[0]["one more, ms"] == pytest.approx(1000)
    assert shares[0]["x decoder alone"] == pytest.approx(1.25)


def test_a_cached_sample_takes_the_products_of_one_pass():
    net, image = PixelCNN(32, 2, 5, dropout=0.0), jnp.zeros((1, 16, 16, 3))
    init = partial(net.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), image)["params"]
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    assert 0.9 < pixelcnn.work(net, params, 16) < 1.1


def test_products_are_counted_through_loops():
    def f(x, w):
        def body(c, _):
            return c @ w, None

        y, _ = jax.lax.scan(body, x, None, length=5)
        return jax.lax.fori_loop(0, y[0, 0].astype(int), lambda i, c: c @ w, y)

    jaxpr = jax.make_jaxpr(f)(jnp.zeros((2, 3)), jnp.zeros((3, 3))).jaxpr
    assert pixelcnn.products(jaxpr, loops=7) == (5 + 7) * 2 * 3 * 3


def test_a_batch_that_does_not_fit_is_timed_in_part():
    def compiled(count: int) -> Any:
        analysis = SimpleNamespace(temp_size_in_bytes=10 * count)
        return SimpleNamespace(memory_analysis=lambda: analysis, count=count)

    for most, part in ((1000.0, 64), (320.0, 32), (100.0, 10), (1.0, 1)):
        made, count = pixelcnn.fit(compiled, 64, most)
        assert count == made.count == part


def test_a_fixed_point_is_reached_or_stopped():
    def redraw(x: np.ndarray) -> np.ndarray:
        return np.minimum(x + 1, 3)

    x, passes, reached = pixelcnn.settle(redraw, np.zeros(2), 10)
    assert (x == 3).all() and passes == 4 and reached
    x, passes, reached = pixelcnn.settle(redraw, np.zeros(2), 2)
    assert (x == 2).all() and passes == 2 and not reached


def test_presets_with_another_number_of_passes():
    assert samplers.find_preset("painter") == PRESETS["painter"]
    evaluations = {
        name: make_plan(250, samplers.find_preset(name).resampling).evaluations
        for name in ("painter/1", "painter/10", "repaint/4")
    }
    assert evaluations == {"painter/1": 250, "painter/10": 1510, "repaint/4": 970}
    schedule = process.make_schedule("linear", 1000, "ddim100")
    for name, calls, gradients in (
        ("ddnm/ddim100/0.5/10/3", 280, 0),
        ("tds/16", 1600, 1600),
        ("fast", 450, 0),
    ):
        row = samplers.cost(samplers.find_preset(name), schedule)
        assert row == {"calls": calls, "gradients": gradients}
    for name in ("painter/0", "painter/x", "quick", "ddnm/x/y", "pigdm/3", "ddnm/50"):
        with pytest.raises(UserError, match="sampler"):
            samplers.find_preset(name)


def test_posteriors_of_the_sampler_problems():
    problem = samplers.scene_problem(16, "center")
    posterior = problem.posterior()
    for c, start in enumerate(np.cumsum([0, 1, 2, 3, 4, 5])):
        own = posterior[c, start : start + c + 1]
        np.testing.assert_allclose(own, scenes.probabilities(c), atol=1e-6)
    # Of the grid's 25 templates the first number leaves 5, in proportion to the prior.
    grid = samplers.grid_problem(2)
    own = grid.posterior()[1].reshape(5, 5)
    np.testing.assert_allclose(own[1], (p := grid.p[5:10]) / p.sum(), atol=1e-6)
    assert own[[0, 2, 3, 4]].max() < 1e-6
    # Nothing but the border is hidden: what the centre shows decides.
    assert samplers.scene_problem(16, "border").posterior().max(1).min() > 0.99


def test_completions_are_assigned_to_templates_and_measured():
    problem = samplers.scene_problem(16, "center")
    noise = np.zeros_like(problem.templates[0])
    drawn = np.stack([problem.templates[[0, 0, 5]], problem.templates[[1, 2, 2]] + 9])
    shown = problem.shown(drawn + noise)
    assert shown[0, 0] == 2 / 3 and shown[0, 5] == 1 / 3 and shown[1, -1] == 1
    # A perfect sampler of two equal modes, two draws: 0, 1/2 and 0 apart.
    assert abs(samplers.floor(np.array([[0.5, 0.5, 0]]), 2) - 0.25) < 0.02


def test_a_row_of_the_sampler_table():
    grid, preset = samplers.grid_problem(1), samplers.find_preset("ddnm/ddim20/0.5")
    row = samplers.measure_preset(grid, preset, 8, 2, unsure=0.0)
    assert row["calls"] == 20 and row["gradients"] == 0
    assert row["total_variation"] < 0.45 and row["valid"] > 0.8
    unsure = samplers.measure_preset(grid, preset, 8, 2, unsure=100.0)
    assert unsure["total_variation"] > row["total_variation"]


def test_tables_of_several_files_are_put_together(tmp_path):
    for i in (1, 2):
        table.report({"A": [{"x": i}]}, {}, str(tmp_path / f"{i}.json"))
    files = [str(tmp_path / f"{i}.json") for i in (1, 2)]
    assert samplers.read_tables(files) == {"A": [{"x": 1}, {"x": 2}]}
    (tmp_path / "3.json").write_text("{}")
    with pytest.raises(UserError, match="holds no tables"):
        samplers.read_tables([str(tmp_path / "3.json")])
