"""Any input is refused with one sentence, or handled right (docs/reliability.md)."""

import hypothesis
import pytest
from helpers.fuzz.kinds import KINDS, QUIET
from helpers.fuzz.outcomes import REFUSED, RIGHT

CASES = 300  # in all; `make fuzz` tries more


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_any_input(kind):
    cases, check, share = KINDS[kind]

    @hypothesis.settings(
        max_examples=CASES * share // 100,
        derandomize=True,  # the same cases every time
        deadline=None,
        suppress_health_check=QUIET,
    )
    @hypothesis.given(cases)
    def holds(case):
        assert check(case) in (REFUSED, RIGHT)

    holds()


def test_shares():
    assert sum(kind.share for kind in KINDS.values()) == 100
