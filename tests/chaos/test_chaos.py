"""A few fault schedules in every test run; `make chaos` runs hundreds."""

import pytest

from tests.chaos.schedule import run_schedule


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_nothing_is_lost_goes_back_or_opens_unasked_whatever_fails(seed):
    run_schedule(seed)
