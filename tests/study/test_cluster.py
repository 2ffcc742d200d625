"""A cluster: jobs that travel, and a clear word where nobody does them. A fake stands in for Dask."""

import pickle
import sys
from concurrent.futures import CancelledError
from types import SimpleNamespace

import pandas as pd
import pytest
from toy_evaluation import asked_for, Brightest, Data, evaluate, evaluation, samples, stable, toys

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

    def nthreads(self):
        return self.workers

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


def on_cluster(methods=("toy-channel", "toy-flat"), metrics=("toy-mean",), model="toy"):
    return evaluate(model, "toy", list(methods), list(metrics), scheduler=ADDRESS, limit=7)


def test_without_dask_the_error_says_what_to_install(toys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'distributed"):
        evaluate("mini-vgg", "mini-birds", "toy-flat", "toy-mean", scheduler="tcp://localhost:1")


def test_a_job_is_plain_and_travels(dask):
    frame = on_cluster()
    pd.testing.assert_frame_equal(stable(frame), stable(evaluate({"toy": "toy"}, "toy", ["toy-channel", "toy-flat"], ["toy-mean"], limit=7)))
    assert len(dask.seen) == 3 and dask.asked["closed"]
    with pytest.raises(ValueError, match="by name"):
        on_cluster(model=Brightest())


def test_no_scheduler(dask):
    dask.answers = False
    with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://x:1 within 15 seconds: Timed out"):
        on_cluster()
    assert dask.asked["timeout"] == 15 and not dask.seen


def test_no_workers(dask):
    dask.workers = {}
    with pytest.raises(ConnectionError, match="has no workers: start some with `dask worker tcp://x:1`"):
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
