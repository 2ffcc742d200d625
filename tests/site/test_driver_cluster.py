"""The driver names a cluster to its notebooks, and asks first whether it is there."""

import sys
import time

import pytest
from toy_notebooks import write
from typer.testing import CliRunner

from xai_repro.cli import app
from xai_repro.site import driver
from xai_repro.study import cluster

distributed = pytest.importorskip("distributed")

ASK = "import os; print('the cluster:', os.environ['XAI_REPRO_SCHEDULER'])"


def test_an_address_where_nobody_is_stops_the_run_before_a_notebook_starts(here, monkeypatch):
    write(here / "notebooks", "10_a")
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    start = time.monotonic()
    told = CliRunner().invoke(app, ["run", "--profile", "smoke", "--scheduler", "tcp://127.0.0.1:9"])
    assert told.exit_code == 2 and "error: no Dask scheduler answers at tcp://127.0.0.1:9" in told.output
    assert time.monotonic() - start < 10 and not [path for path in here.rglob("*") if path.suffix in (".log", ".db")]
    monkeypatch.setenv(cluster.ADDRESS, "tcp://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="no Dask scheduler"):
        driver.run(profile="smoke")
    with pytest.raises(ValueError, match="scheduler is 3"):
        driver.run(profile="smoke", scheduler=3)
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'distributed"):
        driver.run(profile="smoke")


@pytest.mark.slow
def test_notebooks_find_the_address_and_are_current_without_it(here, monkeypatch, capsys):
    write(here / "notebooks", "10_a", ASK)
    asked = []
    monkeypatch.setattr(cluster, "check", asked.append)
    executed = here / "results/smoke/notebooks/10_a.ipynb"
    assert driver.run(profile="smoke", scheduler="tcp://x:1") and asked == ["tcp://x:1"]
    assert "the cluster: tcp://x:1" in (first := executed.read_text())
    assert driver.run(profile="smoke") and executed.read_text() == first and asked == ["tcp://x:1"]
    assert "1 notebooks are current" in capsys.readouterr().out


EVALUATE = "import xai_repro as xr; table = xr.evaluate('mini-vgg', 'mini-birds', 'grad-cam', 'average-drop', profile, results=results); print(len(table), 'rows')"


@pytest.mark.slow
def test_a_notebook_is_worked_off_by_the_cluster(here):
    write(here / "notebooks", "10_a", EVALUATE)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as found:
        before = found.scheduler.transition_counter
        assert driver.run(profile="smoke", scheduler=found.scheduler_address)
        assert found.scheduler.transition_counter > before
    assert "4 rows" in (here / "results/smoke/notebooks/10_a.ipynb").read_text()
    assert len(list((here / "results/smoke/shards").glob("*.parquet"))) == 2  # of two networks
