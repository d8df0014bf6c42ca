"""Programs compiled ahead of time: what is read from them, cached and printed."""

import sys

import jax
import jax.numpy as jnp
import pytest
from helpers.configs import load_config

from picjax import aot, checkpoints, memory, plan, search
from picjax.cli import UserError
from picjax.hlo import Collectives
from picjax.sharding import make_mesh

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
COMMAND = ["--config=pix2pix:tiny", "--config.batch_size=1", "--compile"]
PROGRAM = aot.Program(
    90.0,
    "",
    aot.Memory(3 * 10**9, 10**9, 8 * 10**9, 12 * 10**9),
    flops=197e9,
    traffic=819e7,
    collectives={"all-reduce": Collectives(3, 10**8, 2e8)},
)


def flops_of(lowered):
    """As XLA counts them."""
    return lowered.cost_analysis()["flops"]


@pytest.fixture
def one_chip(monkeypatch, tmp_path):
    """Compile for this machine's device in the place of a chip, with an empty cache."""
    monkeypatch.setenv("PICJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(aot, "PACKAGES", ("jax",))
    monkeypatch.setattr(aot, "tpu_devices", lambda *_: jax.devices()[:1])
    return tmp_path / "plans"


# ---- FLOPs, memory, time ----


def test_matrix_products_in_loops_count_as_often_as_they_run():
    def layers(x, kernels):
        return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]

    shapes = jax.ShapeDtypeStruct((2, 8), "f4"), jax.ShapeDtypeStruct((5, 8, 8), "f4")
    traced = jax.jit(layers).trace(*shapes)
    assert aot.matrix_flops(traced.jaxpr, once=True) == 2 * 2 * 8 * 8
    assert aot.matrix_flops(traced.jaxpr) == 5 * 2 * 2 * 8 * 8


def test_convolutions_are_counted_as_xla_counts_them():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    shapes = (jnp.zeros((3, 9, 9, 4)), jnp.zeros((3, 3, 4, 5)))
    traced = jax.jit(convolve).trace(*shapes)
    assert aot.matrix_flops(traced.jaxpr) == 2 * 3 * 4 * 4 * 5 * 3 * 3 * 4
    assert flops_of(traced.lower()) == aot.matrix_flops(traced.jaxpr)


def test_a_loop_scales_what_xla_counts(one_chip):
    def layers(x, kernels):
        return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]

    def flops(number):
        kernels = jax.ShapeDtypeStruct((number, 64, 64), "f4")
        x = jax.ShapeDtypeStruct((64, 64), "f4")
        return aot.measure("layers", jax.jit(layers).trace(x, kernels)).flops

    assert flops(12) == pytest.approx(2 * flops(6), rel=0.01)


def test_the_longest_of_three_times_is_the_estimate():
    times = plan.roofline(PROGRAM, plan.CHIPS["v5e"])
    assert times == pytest.approx({"arithmetic": 1e-3, "memory": 1e-2, "network": 1e-3})


def test_a_compiled_step_is_described():
    config = load_config("pix2pix", "tiny")
    config.batch_size, config.steps = 16, 36_000
    run = plan.Plan(
        "v5e:4x4", plan.CHIPS["v5e"], 16, {}, {}, 1e9, config.batch_size, config.steps
    )
    text = "\n".join(plan.describe_compiled(PROGRAM, run, 0))
    assert "12.000 of 16 GB, fits: arguments 3.000" in text
    assert "all-reduce 3 (100.000 MB)" in text
    assert (
        "about 10.000 ms, limited by memory" in text
        and "10.0% of the stated peak" in text
    )
    assert "about 1,600 images/s" in text
    assert "about 0.10 h for 36,000 steps, 1.6 chip-hours" in text
    assert "about 8,000.0 completions/s" in plan.describe_compiled(PROGRAM, run, 5)[-1]
    large = PROGRAM._replace(excess="20.1G of 15.7G hbm")
    assert (
        "does not fit: 20.1G of 15.7G hbm" in plan.describe_compiled(large, run, 0)[-1]
    )


def test_weak_scaling_repeats_the_chips_and_sends_more():
    run = plan.Plan("v5e:4x4", plan.CHIPS["v5e"], 16, {}, {}, 1e9, 32, 1)
    (line,) = plan.describe_scaling(PROGRAM, run)  # limited by memory, 10 ms
    assert "8 chips 1,600, 32 chips 6,400" in line
    sends = PROGRAM._replace(collectives={"all-reduce": Collectives(1, 0, 4e9)})
    seconds = 0.02 * (2 * 255 / 256) / (2 * 15 / 16)
    assert f"256 chips {512 / seconds:,.0f}" in plan.describe_scaling(sends, run)[0]
    gathers = PROGRAM._replace(collectives={"all-gather": Collectives(1, 0, 1.0)})
    assert not plan.describe_scaling(gathers, run)


def test_a_search_grows_batches_until_one_does_not_fit():
    config = load_config("painter", "tiny")
    config.batch_size = 16

    def trials(limit):
        def compile_step(changes):
            rate = changes["batch_size"] if changes["batch_size"] <= limit else 0
            quicker = changes["model.dtype"] == "bfloat16" and changes["mesh.fsdp"] == 1
            return search.Trial(changes, PROGRAM, rate * (1 + quicker))

        found = list(search.search(config, 4, (1, 4), compile_step))
        first = [x for x in found if x.changes["model.remat"] is False][:4]
        return found, [x.changes["batch_size"] for x in first]

    found, sizes = trials(32)
    assert sizes[:3] == [16, 32, 64] and len(found) == 2 * 2 * 2 * 3
    assert "model.dtype=bfloat16" in search.describe_best(found)
    assert "--config.batch_size=32" in search.describe_best(found)
    assert search.describe_trial(found[2]).endswith("batch_size=64: does not fit")
    found, sizes = trials(4)
    assert sizes[:3] == [16, 8, 4]
    assert [x.changes.get("opt.accumulate") for x in found[:3]] == [None, 2, 4]
    found, sizes = trials(1)  # 2 images do not split over 4 chips
    assert sizes[:3] == [16, 8, 4] and len(found) == 8 * 3
    assert "nothing fits" in search.describe_best(found)


def test_what_a_compiler_says_about_too_small_a_memory():
    reason = "Ran out of memory on HBM, the total memory required is 238.27G"
    error = RuntimeError(f"RESOURCE_EXHAUSTED: {reason}\nLargest program allocations:")
    assert aot.describe_excess(error) == reason


# ---- the command ----


def test_a_step_is_compiled_once(one_chip, capsys, monkeypatch):
    plan.main([*COMMAND, "--topology=v5e:1x1"])
    printed = capsys.readouterr()
    assert "compiling the training step took" in printed.err
    assert "collectives      none" in printed.out and "images/s" in printed.out
    (path,) = one_chip.iterdir()
    step, config = aot.read_program(path), load_config("pix2pix", "tiny")
    assert step is not None
    state = memory.tree_bytes(checkpoints.abstract_state(config))
    assert step.memory.arguments >= state
    assert step.memory.outputs < 0.1 * state  # the new state takes the old one's place
    assert step.flops > 0 and step.memory.temporaries > 0 and step.traffic > 2 * state

    monkeypatch.setattr(search, "DOUBLINGS", 0)
    monkeypatch.setattr(search, "DTYPES", ("float32",))
    monkeypatch.setattr(aot, "measure", lambda *_: pytest.fail("compiled again"))
    plan.main([*COMMAND, "--search", "--topology=v5e:1x1"])
    best = "--config.model.dtype=float32 --config.mesh.fsdp=1 --config.batch_size=1"
    assert f"quickest         {best}" in capsys.readouterr().out
    config.batch_size, config.steps = 1, 8
    mesh = make_mesh(devices=jax.devices()[:1])
    assert aot.compile_program(config, mesh, "v5e:1x1") == step


def test_completions_are_of_one_image_on_each_device():
    mesh = make_mesh(devices=jax.devices()[:1])
    config = load_config("pix2pix", "tiny")
    traced = aot.trace_completions(config, mesh, 5)
    assert traced.out_info.pixels.shape == (
        1,
        5,
        config.image_size,
        config.image_size,
        3,
    )
    once = aot.matrix_flops(traced.jaxpr, once=True)
    assert aot.matrix_flops(traced.jaxpr) > once > 0


def test_a_program_is_kept_for_its_inputs_only(one_chip):
    config, changed = load_config("pix2pix", "tiny"), load_config("pix2pix", "tiny")
    changed.model.ngf += 1

    def path(config, topology="v5e:2x2", title="the training step"):
        found = aot.cache_path(aot.describe_input(config, topology, title))
        assert found is not None
        return found

    paths = {path(config), path(changed), path(config, "v5e:4x4")}
    assert len(paths | {path(config, title="2 completions")}) == 4
    changed.model.ngf, changed.steps = config.model.ngf, 10**6
    assert path(changed) == path(config)
    aot.write_program(path(config), PROGRAM)
    assert aot.read_program(path(config)) == PROGRAM
    path(config).write_text(path(config).read_text()[:-20])
    assert aot.read_program(path(config)) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--topology=h100:8", "--compile"), "needs the GPUs of 'h100:8' themselves"),
        (("--topology=v5e:2x2", "--complete=2"), "add --compile, or leave it out"),
        (("--topology=v5e:2x2", "--search"), "--search compiles; add --compile"),
        (("--topology=v5e:2x2", "--compile", "--complete=-1"), "give 0 or more"),
        (("--topology=v5e:2x2", "--compile", "--complete=x"), "invalid int value"),
        (("--topology=v5e:2x2", "--compile"), r"pip install 'picjax\[tpu\]'"),
    ],
)
def test_what_cannot_be_compiled_is_refused(words, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)  # cannot be imported
    with pytest.raises(UserError, match=message):
        plan.main(["--config=pix2pix:tiny", *words])


def test_compiling_for_chips_that_are_not_there(monkeypatch):
    pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install libtpu")
    config = load_config("pix2pix", "tiny")
    with pytest.raises(
        UserError, match="'v5e:3x5' is no slice that the compiler knows"
    ):
        aot.tpu_devices("v5e:3x5", 15)
    with pytest.raises(UserError, match="takes each core of 'v4:2x2x2' for a device"):
        aot.tpu_devices("v4:2x2x2", 8)
    mesh = make_mesh(devices=aot.tpu_devices("v5e:2x2", 4))
    program = aot.compile_program(config, mesh, "v5e:2x2")
    state = checkpoints.abstract_state(config)
    assert program.memory.arguments > memory.tree_bytes(state)
    assert program.collectives.keys() == {"all-reduce"}
    # The state is read and written; activations may stay on the chip.
    assert program.flops > 0 and program.traffic > 1.5 * memory.tree_bytes(state)
