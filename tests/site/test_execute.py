"""One notebook: what it must have, and when it counts as done."""

import nbformat
import pytest
from toy_notebooks import write

from xai_repro.site import driver


def test_a_notebook_needs_its_parameters_cell(here):
    path = write(here / "notebooks", "10_toy")
    broken = nbformat.read(path, 4)
    broken.cells[1].source = "profile: str = 'mini'"
    nbformat.write(broken, path)
    with pytest.raises(ValueError, match="no parameter results"):
        driver.run()


ENDS = {  # none of these is an error to the kernel, and the cell after it is not run
    "10_exit": "import sys; sys.exit(0)",
    "11_raise": "raise SystemExit",
    "12_gone": "import os; os._exit(0)",
    "13_killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.slow
def test_a_notebook_that_ends_early_is_not_done_and_names_the_cell(here, capfd):
    for name, end in ENDS.items():
        write(here / "notebooks", name, "1 + 1", end, "print('after')")
        older = here / "results/smoke/notebooks" / f"{name}.ipynb"
        older.parent.mkdir(parents=True, exist_ok=True)
        older.write_text("an older copy")
    write(here / "notebooks", "14_last", "1 + 1", ENDS["10_exit"])
    assert not driver.run(profile="smoke")
    said = capfd.readouterr().err
    for name, end in {**ENDS, "14_last": ENDS["10_exit"]}.items():
        assert f"{name}: failed" in said and f"cell In [4], `{end}`," in (here / f"results/smoke/logs/{name}.log").read_text()
        assert (here / f"results/smoke/logs/{name}.failed.ipynb").exists()
    assert not list((here / "results/smoke/notebooks").iterdir())
