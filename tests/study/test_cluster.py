"""A cluster: jobs that travel, and a clear word where nobody does them. A fake stands in for Dask; `test_cluster_real.py` has the real one."""

import os
import pickle
import sys
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from toy_evaluation import asked_for, Brightest, Data, evaluate, evaluation, samples, shards, stable, toys

from xai_repro.errors import UnknownName
from xai_repro.store import progress
from xai_repro.study import cluster

ADDRESS = "tcp://x:1"


class Future:
    def __init__(self, function, job):
        self.function, self.job = function, job

    def result(self):
        return self.function(self.job)


class Cluster:
    """Stands in for dask.distributed: every submission goes through pickle. What is to happen is set per test."""

    def __init__(self):
        self.seen, self.workers, self.answers, self.finishes, self.asked = [], {"w": 1}, True, True, {}

    def Client(self, address, timeout):
        self.asked["timeout"] = timeout
        if not self.answers:
            raise OSError("Timed out trying to connect")
        assert address == ADDRESS
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.asked["closed"] = True

    def wait_for_workers(self, n_workers, timeout):
        if not self.workers:
            raise TimeoutError

    def submit(self, function, job, pure):
        function, job = pickle.loads(pickle.dumps((function, job)))
        self.seen.append(job)
        return Future(function, job)

    def wait(self, futures, timeout, return_when):
        if self.finishes is not True:
            raise self.finishes
        last = max(futures, key=lambda future: future.job.start)
        return {last}, futures - {last}


@pytest.fixture
def dask(toys, monkeypatch):
    fake = Cluster()
    monkeypatch.setitem(sys.modules, "dask", SimpleNamespace(distributed=fake))
    monkeypatch.setitem(sys.modules, "dask.distributed", fake)
    monkeypatch.setattr(asked_for, "load_model", lambda *_, **options: Brightest())  # by name: no fingerprint is asked of it
    monkeypatch.setattr(asked_for, "load_data", lambda _: Data(samples()))
    monkeypatch.setattr(evaluation, "BLOCK", 3)
    return fake


def on_cluster(methods=("toy-channel", "toy-flat"), metrics=("toy-mean",), model="toy", scheduler=ADDRESS, **options):
    return evaluate(model, "toy", list(methods), list(metrics), scheduler=scheduler, limit=7, **options)


def here(**options):
    return evaluate({"toy": "toy"}, "toy", ["toy-channel", "toy-flat"], ["toy-mean"], limit=7, **options)


def test_without_dask_the_error_says_what_to_install(toys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'distributed"):
        evaluate("mini-vgg", "mini-birds", "toy-flat", "toy-mean", scheduler="tcp://localhost:1")


def test_a_job_is_plain_and_travels(dask):
    frame = on_cluster()
    pd.testing.assert_frame_equal(stable(frame), stable(here()))
    assert len(dask.seen) == 3 and dask.asked["closed"]
    with pytest.raises(ValueError, match="by name, so that they load there; given: Brightest"):
        on_cluster(model=Brightest())


def test_no_scheduler(dask):
    dask.answers = False
    with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://x:1 within 8 seconds: Timed out .* `dask scheduler` starts one"):
        on_cluster()
    assert dask.asked["timeout"] == 8 and not dask.seen


def test_no_workers(dask):
    dask.workers = {}
    with pytest.raises(ConnectionError, match="has no workers: start some with `dask worker tcp://x:1"):
        on_cluster()
    assert dask.asked["closed"] and not dask.seen


@pytest.mark.parametrize("gone, message", [(TimeoutError(), "has lost its workers; 3 of 3 jobs are not done"), (CancelledError(), "scheduler has gone")])
def test_nobody_is_left_to_do_the_jobs(dask, gone, message):
    def workers_die(function, job, pure):
        dask.workers = {}
        return Future(function, job)

    dask.submit, dask.finishes = workers_die, gone
    with pytest.raises(ConnectionError, match=message):
        on_cluster()


def test_a_job_that_fails_is_named_and_the_others_go_on(dask, tmp_path):
    submit, done = dask.submit, []

    def fails(function, job, pure):
        future = submit(function, job, pure)
        if job.start == 6:  # the first one to finish
            future.function = lambda job: [][0]
        else:
            future.function = lambda job: done.append(job.start) or function(job)
        return future

    dask.submit = fails
    with pytest.raises(RuntimeError, match="1 of 3 jobs failed on the cluster tcp://x:1; the first, toy, toy, images 6 to 6: IndexError"):
        on_cluster()
    assert sorted(done) == [0, 3]


def test_the_device_is_resolved_by_the_worker(dask):
    on_cluster()
    assert {job.device for job in dask.seen} == {"auto"}  # whatever is here
    on_cluster(device="cuda:3")  # which is not here
    assert dask.seen[-1].device == "cuda:3"
    with pytest.raises(UnknownName, match="unknown device 'cud'; did you mean 'cuda'"):
        on_cluster(device="cud")


# -- the address in the environment --------------------------------------------------------------------------------------


def test_the_environment_names_the_scheduler_of_those_who_name_none(dask, monkeypatch):
    monkeypatch.setenv(cluster.ADDRESS, ADDRESS)
    pd.testing.assert_frame_equal(stable(on_cluster(scheduler=None)), stable(on_cluster()))
    assert len(dask.seen) == 6
    monkeypatch.setenv(cluster.ADDRESS, "")
    on_cluster(scheduler=None)
    assert len(dask.seen) == 6


def test_objects_are_worked_off_here_which_progress_says(dask, monkeypatch, tmp_path):
    monkeypatch.setenv(cluster.ADDRESS, ADDRESS)
    monkeypatch.setenv(progress.FILE, str(tmp_path / "now"))
    frame = on_cluster(model=Brightest(), scheduler=None)
    assert len(frame) == 14 and not dask.seen and not dask.asked
    assert (tmp_path / "now").read_text() == "images explained here, not on the cluster: given as Brightest 14/14"


# -- what a worker must have ---------------------------------------------------------------------------------------------


class Named(Brightest):
    fingerprint = "v1"


@pytest.fixture
def kept(dask, monkeypatch, tmp_path):
    """A folder of results by a relative name, and the working directory of the workers, which is another one."""
    monkeypatch.setattr(asked_for, "load_model", lambda *_, **options: Named())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    result = Future.result

    def from_elsewhere(future):
        os.chdir(elsewhere)
        try:
            return result(future)
        finally:
            os.chdir(tmp_path)

    monkeypatch.setattr(Future, "result", from_elsewhere)
    return tmp_path / "results"


def test_shards_lie_where_the_caller_wanted_them_and_are_done_once(dask, kept):
    first = on_cluster(results="results")
    assert len(shards(kept)) == 6 and not list((kept.parent / "elsewhere").iterdir())  # the sign is gone, too
    assert not list(kept.rglob("*.tmp"))
    dask.answers = False  # nothing is left to do: nobody is asked
    pd.testing.assert_frame_equal(on_cluster(results="results"), first)
    before = shards(kept)
    pd.testing.assert_frame_equal(stable(here(results="results")), stable(first))
    assert shards(kept) == before


def test_a_worker_that_does_not_see_the_folder_refuses(dask, kept, monkeypatch):
    submit = dask.submit

    def without_folder(function, job, pure):
        future = submit(function, job, pure)
        work = future.function
        sign = Path(work.args[1])
        assert sign.exists() and sign.parent == kept / "shards"
        future.function = partial(work.func, work.args[0], "/other" + str(sign), *work.args[2:])
        return future

    dask.submit = without_folder
    with pytest.raises(RuntimeError, match=r"3 of 3 jobs failed .*FileNotFoundError: the worker on \S+ does not see /other.*share under one name"):
        on_cluster(results="results")
    assert not shards(kept)


def test_a_worker_with_other_software_refuses(dask, monkeypatch):
    software = cluster._software()
    assert set(software) == {"torch", "torchvision", "xai-repro with code"} and "+" not in software["torch"]
    monkeypatch.setattr(cluster, "_software", lambda answers=iter([software] + 9 * [software | {"torch": "1.0"}]): next(answers))
    with pytest.raises(RuntimeError, match=rf"RuntimeError: the worker on \S+ has torch 1.0 in place of {software['torch']}: install the same"):
        on_cluster()


class KilledWorker(Exception):
    """As Dask calls it."""


def test_a_job_that_kills_its_workers_is_named(dask, kept):
    submit = dask.submit

    def kills(function, job, pure):
        future = submit(function, job, pure)
        if job.start == 3:
            future.function = partial(_raise, KilledWorker("Attempted to run task ... on 4 different workers"))
        return future

    dask.submit = kills
    with pytest.raises(RuntimeError, match="the first, toy, toy, images 3 to 5: the workers that had it died .*batch=.* does only what is missing"):
        on_cluster(results="results")
    assert len(shards(kept)) == 4
    dask.submit = submit
    on_cluster(results="results")
    assert [job.start for job in dask.seen][3:] == [3]


def _raise(error, job):
    raise error
