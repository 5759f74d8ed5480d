"""A training that is killed, and goes on, ends as one that was not; tests/soak_resume.py does it for long."""

import multiprocessing

import pytest
from soak_resume import Soak


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="needs a system with fork"
)
def test_trainings_that_are_killed_end_as_if_they_had_not_been(tmp_path):
    """At random moments, and within the writing of checkpoints; weights, optimizer and log to the bit."""
    soak = Soak(tmp_path, seed=3)
    rounds = [soak.round(str(number), kills=2) for number in range(3)]
    assert all(done.endswith("equal") for done in rounds), rounds
    assert any("went on 0 x" not in done for done in rounds), rounds
