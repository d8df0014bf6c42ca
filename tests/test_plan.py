"""What a run costs on devices that are not there."""

import jax
import pytest
from helpers.configs import load_config

from picjax import checkpoints, methods, plan
from picjax.cli import UserError
from picjax.layers import backend


def test_a_plan_counts_parameters_state_and_arithmetic():
    config = load_config("pix2pix", "tiny")
    config.batch_size = 16
    config.model.ngf = 16
    config.mesh.fsdp = 4
    result = plan.make_plan(config, "v5e:4x4")
    state = checkpoints.abstract_state(config)
    assert result.chips == 16 and result.chip.peak == 197e12
    assert sum(result.parameters.values()) == sum(
        x.size for x in jax.tree.leaves(state.params)
    )
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert list(result.state) == [1, 4, 8, 16] and result.state[1] == whole
    assert whole / 4 < result.state[4] < whole / 2
    # Forward and backward of a kernel's every use: far more than 6 FLOPs a parameter.
    assert result.flops > 6 * sum(result.parameters.values())
    seconds = 16 * result.flops / (16 * 197e12)
    assert result.seconds == pytest.approx(seconds)
    text = "\n".join(plan.describe(result, config))
    assert "with fsdp=4" in text and text.count("<- config.mesh") == 1


@pytest.mark.parametrize("topology", ["v5e", "v9:4x4", "h100:0", "v5e:4x", ""])
def test_unknown_topologies_are_refused(topology):
    with pytest.raises(UserError, match="use CHIP:SHAPE such as v5e:16x16"):
        plan.parse_topology(topology)


def test_a_batch_must_split_over_the_chips():
    config = load_config("pix2pix", "tiny")
    config.batch_size = 6
    with pytest.raises(UserError, match="6 does not split over 16 devices"):
        plan.make_plan(config, "v5e:4x4")


def test_a_plan_counts_conditions_and_classes():
    config = load_config("painter", "tiny")
    config.data.classes = config.model.classes = 3
    assert checkpoints.abstract_batch(config, 5)["class"].shape == (5,)
    batch, key = checkpoints.abstract_batch(config), jax.random.key(0)
    step = methods.make(config).step  # refuses images without classes
    assert jax.eval_shape(step, checkpoints.abstract_state(config), batch, key)
    config = load_config("pix2pix", "facades")
    assert checkpoints.abstract_batch(config)["condition"].shape == (2, 256, 256, 3)


def test_operations_are_traced_for_the_planned_back_end():
    with backend.tracing_for("tpu"):
        assert not backend.on_cpu()
    assert backend.on_cpu()


def test_a_missing_topology_is_one_sentence():
    with pytest.raises(UserError, match="--topology is missing"):
        plan.main(["--config=pix2pix:tiny"])
