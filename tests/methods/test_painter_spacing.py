"""Which steps of the process are kept."""

import numpy as np
import pytest

from picjax.cli import UserError
from picjax.methods.painter.process import beta_schedule, make_schedule
from picjax.methods.painter.spacing import keep, space_timesteps

LINEAR = np.cumprod(1 - beta_schedule("linear", 1000))


@pytest.mark.parametrize(
    ("steps", "spacing", "message"),
    [
        (1000, "ddim300", "has no integer stride"),
        (1000, "ddimx", "is not a number"),
        (1000, "quad", "is not a number"),
        (1000, "quad1", "keeps 1 step"),
        (1000, "karras1001", "asks for 1001 steps of 1000"),
        (1000, "25.5", "is not a number"),
        (1000, "1001", "asks for 1001 steps of a section of 1000"),
        (100, "40,40,30", "asks for 40 steps of a section of 34"),
        (1000, "1", "keeps 1 step"),
        (1000, "0,0", "keeps 0 step"),
    ],
)
def test_impossible_spacings_are_rejected(steps, spacing, message):
    with pytest.raises(UserError, match=message):
        keep(LINEAR[:steps], spacing)


def test_spacings():
    assert space_timesteps(1000, "ddim25") == list(range(0, 1000, 40))
    even = space_timesteps(1000, "250")
    assert even == [round(i * 999 / 249) for i in range(250)]
    assert space_timesteps(7, "") == list(range(7))
    sections = space_timesteps(30, "2,3,10")
    assert sections == [0, 9, 10, 14, 19, *range(20, 30)]
    assert space_timesteps(101, "quad5") == [0, 6, 25, 56, 100]


@pytest.mark.parametrize("count", [2, 50, 250, 999, 1000])
@pytest.mark.parametrize("kind", ["quad", "karras"])
def test_dense_spacings_keep_as_many_different_steps_as_asked(kind, count):
    kept = keep(LINEAR, f"{kind}{count}")
    assert len(kept) == count and (kept[0], kept[-1]) == (0, 999)
    assert np.diff(kept).min() >= 1


def test_noise_over_signal_falls_as_in_karras():
    schedule = make_schedule("linear", 1000, "karras20")
    sigma = np.sqrt(1 / schedule.alphas_cumprod - 1)
    steps = np.diff(sigma ** (1 / 7))
    upper = slice(8, None)  # below, neighbouring steps are farther apart than asked
    np.testing.assert_allclose(steps[upper], steps[upper].mean(), rtol=0.03)
