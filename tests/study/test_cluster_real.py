"""A real Dask cluster of processes on this machine: workers that are killed, jobs that kill, and an address where nobody is."""

import os
import signal
import socket
import time
from functools import partial
from threading import Thread

import pandas as pd
import pytest
import xai_repro as xr
from toy_evaluation import shards, stable

from xai_repro.study import cluster as study_cluster

distributed = pytest.importorskip("distributed")

# Five networks, and so five jobs of four images
REQUEST = {"models": "mini-vgg", "datasets": "mini-birds", "methods": ["grad-cam", "gradient", ("rise", {"masks": 50})], "metrics": ["average-drop", "proportion"], "limit": 20, "device": "cpu"}


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as found:
        yield found


def workers(cluster):
    """The numbers of the processes that work."""
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=20)
        return list(client.run(os.getpid).values())


def first_is_done(folder):
    return any((folder / "shards").glob("*.parquet"))


def test_an_address_where_nobody_is():
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://127.0.0.1:9 within 8 seconds: .*`dask scheduler` starts one"):
        xr.evaluate(**REQUEST, scheduler="tcp://127.0.0.1:9")
    assert time.monotonic() - start < 15


def test_an_address_where_something_else_is(monkeypatch):
    monkeypatch.setattr(study_cluster, "PATIENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ConnectionError, match="within 1 seconds: something is there, but says nothing"):
        xr.evaluate(**REQUEST, scheduler="tcp://127.0.0.1:{}".format(silent.getsockname()[1]))


@pytest.mark.slow
def test_a_worker_is_killed_in_the_middle(cluster, tmp_path):
    victim, *_ = workers(cluster)

    def kill():
        while not first_is_done(tmp_path):
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    Thread(target=kill, daemon=True).start()
    frame = xr.evaluate(**REQUEST, scheduler=cluster.scheduler_address, results=tmp_path)
    assert len(frame) == 20 * 3 * 2 and frame["run"].nunique() == 5 and (frame["status"] == "ok").all()
    assert victim not in workers(cluster)
    pd.testing.assert_frame_equal(stable(frame), stable(xr.evaluate(**REQUEST)))

    kept = shards(tmp_path)
    assert len(kept) == 5 * 3 * 2
    pd.testing.assert_frame_equal(xr.evaluate(**REQUEST, results=tmp_path), frame)  # with the seconds that the workers took
    assert shards(tmp_path) == kept


def fatal_once(flag, out):
    """What the network returns; the first process that comes here dies."""
    try:
        open(flag, "x").close()
    except FileExistsError:
        return out
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_job_that_kills_its_worker_is_named_and_the_others_are_kept(cluster, tmp_path, monkeypatch):
    request = REQUEST | {"methods": "grad-cam", "output": partial(fatal_once, str(tmp_path / "flag")), "scheduler": cluster.scheduler_address, "results": tmp_path}
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)  # in place of 3: one death is enough
    with pytest.raises(RuntimeError, match=r"of 5 jobs failed on the cluster tcp\S+; the first, mini-vgg, mini-birds, images \d+ to \d+: the workers that had it died"):
        xr.evaluate(**request)
    kept = shards(tmp_path)
    assert 2 <= len(kept) < 10  # the one that killed, and the one that waited behind it, are not there
    assert len(xr.evaluate(**request)) == 40 and kept.items() <= shards(tmp_path).items()


@pytest.mark.slow
def test_the_scheduler_is_lost(cluster, tmp_path):
    """The last one: it ends the cluster that the tests share."""

    def close():
        while not first_is_done(tmp_path):
            time.sleep(0.01)
        cluster.close()

    Thread(target=close, daemon=True).start()
    with pytest.raises(ConnectionError, match=r"of 5 jobs are not done"):
        xr.evaluate(**REQUEST, scheduler=cluster.scheduler_address, results=tmp_path)
    kept = shards(tmp_path)
    assert kept and len(xr.evaluate(**REQUEST, results=tmp_path)) == 120 and kept.items() <= shards(tmp_path).items()
