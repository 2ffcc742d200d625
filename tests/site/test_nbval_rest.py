"""The stored outputs of the executed notebooks are what running them again gives: the second half, in a file of its own for a process of its own."""

import pytest
from again import check_cells, executed, HALVES, nbval, NOTEBOOKS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks")]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return executed(HALVES[1], tmp_path_factory.mktemp("nbval"))


def test_every_cell_was_run(done):
    check_cells(done)


def test_running_again_gives_the_stored_outputs(done):
    result = nbval(done / "notebooks")
    assert result.returncode == 0, result.stdout[-6000:]
