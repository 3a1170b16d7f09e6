"""Exact resume at every step, on the backend that is active."""

import pytest
from test_resume import EPOCHS, Training, check


@pytest.mark.deep
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_at_each_of_24_steps(tmp_path, dropout, figure):
    training = Training(tmp_path, dropout)
    steps = EPOCHS * len(training.data())
    assert steps == 24
    worst = check(training, *range(steps))
    figure(
        f"broken off before each batch of two epochs and gone on with: dropout {dropout}",
        steps,
        f"largest difference {worst}",
    )
    assert worst == 0.0
