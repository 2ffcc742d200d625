"""Jobs on a Dask cluster, which is asked whether it is there before anything waits for it."""

import os
import re
import socket
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import lru_cache, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from uuid import uuid4

from xai_repro.errors import unknown
from xai_repro.store.waiting import in_time

ADDRESS = "XAI_REPRO_SCHEDULER"  # environment variable: the scheduler of everyone who names none
PATIENCE = 8  # seconds without a scheduler, or without any worker, after which that is an error
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_TURN = Lock()  # of the jobs of one process: random draws share torch's generator, so threads would change each other's


# -- who works -------------------------------------------------------------------------------------------------------


def chosen(scheduler, given):
    """(address or None, what to say of it): the scheduler that is named, else that of the environment, for which objects are worked off here.

    given: the models and data sets. Raises ValueError for objects with a scheduler that is named.
    """
    objects = sorted({type(one).__name__ for one in given if not isinstance(one, str)})
    if scheduler and objects:
        raise ValueError(f"on a cluster models and data sets are given by name, so that they load there; given: {', '.join(objects)}")
    asked = scheduler or os.environ.get(ADDRESS)
    if asked and objects:
        return None, f" here, not on the cluster: given as {', '.join(objects)}"
    return asked or None, ""


def device_of_workers(device):
    """A device by the name that every worker resolves itself: "auto" is a GPU where that worker has one. Raises UnknownName."""
    if not _DEVICE.fullmatch(str(device)):
        raise unknown("device", device, ["auto", "cpu", "cuda", "cuda:0", "mps"])
    return str(device)


def check(scheduler):
    """Raise ConnectionError where no scheduler that has workers answers, ModuleNotFoundError without Dask."""
    _client(_dask(scheduler), scheduler).close()


def runner(scheduler, results=None):
    """A function (run, jobs, step) -> iterator of (job, result) that works the jobs off on a cluster.

    scheduler: address of the scheduler. results: folder of the shards, which workers have to see, or None. Raises ModuleNotFoundError without Dask.
    """
    distributed = _dask(scheduler)

    def work_off(run, jobs, step):
        if not jobs:
            return
        failed = []
        with _client(distributed, scheduler) as client, _sign(results) as sign:
            work = partial(_on_worker, run, sign, _software())
            futures = {client.submit(work, job, pure=False): job for job in jobs}
            for future in _finished(distributed, client, futures):
                job = futures[future]
                step(job.length)
                try:
                    result = future.result()
                except Exception as error:  # noqa: BLE001 - the other jobs go on; their shards are worth keeping
                    failed.append(f"{job.place}: {_why(error)}")
                else:
                    yield job, result
        if failed:
            kept = "; the others are kept, and the same call does only what is missing" if results else ""
            raise RuntimeError(f"{len(failed)} of {len(jobs)} jobs failed on the cluster {scheduler}; the first, {failed[0]}{kept}")

    return work_off


def _dask(scheduler):
    try:
        from dask import distributed
    except ImportError:
        raise ModuleNotFoundError(
            f"scheduler='{scheduler}' needs Dask, which is not installed: "
            "pip install 'distributed>=2025' here and on the workers"
        ) from None
    return distributed


def _client(distributed, scheduler):
    """A client of a scheduler that has workers. Raises ConnectionError."""
    try:
        client = in_time(partial(distributed.Client, scheduler, timeout=PATIENCE), PATIENCE + 1)  # Dask itself waits without end where something listens that is no scheduler
    except (OSError, ValueError) as error:  # ValueError: no address at all
        why = str(error) or "something is there, but says nothing"
        raise ConnectionError(
            f"no Dask scheduler answers at {scheduler} within {PATIENCE} seconds: {why}. `dask scheduler` starts one and prints its address, tcp://HOST:PORT"
        ) from None
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        client.close()
        raise ConnectionError(f"the Dask scheduler at {scheduler} has no workers: start some with `dask worker {scheduler} --nthreads 1`") from None
    return client


def _finished(distributed, client, futures):
    """The futures one after the other as they finish. Raises ConnectionError where nobody is left to finish them."""
    waiting = set(futures)
    while waiting:
        try:
            done, waiting = distributed.wait(waiting, timeout=PATIENCE, return_when="FIRST_COMPLETED")
        except TimeoutError:  # a long job, or nobody who does it
            try:
                client.wait_for_workers(1, timeout=PATIENCE)  # one that was killed may just be starting again
            except TimeoutError:
                raise ConnectionError(f"the Dask cluster has lost its workers; {len(waiting)} of {len(futures)} jobs are not done") from None
        except CancelledError:
            raise ConnectionError(f"the Dask scheduler has gone; {len(waiting)} of {len(futures)} jobs are not done") from None
        else:
            yield from done


def _why(error):
    """What made a job fail, in one line."""
    if type(error).__name__ == "KilledWorker":
        return "the workers that had it died one after the other, as of too little memory; batch=... makes it need less, and the workers' log says more"
    return f"{type(error).__name__}: {error}"


# -- on a worker -----------------------------------------------------------------------------------------------------


def _on_worker(run, sign, software, job):
    """run(job) on a worker that has the same software as the one who asks, and sees the same folder."""
    host, own = socket.gethostname(), _software()
    if own != software:
        unlike = [f"{name} {own[name]} in place of {wanted}" for name, wanted in software.items() if own[name] != wanted]
        raise RuntimeError(f"the worker on {host} has {', '.join(unlike)}: install the same there, and start it again")
    if sign and not os.path.exists(sign):
        raise FileNotFoundError(f"the worker on {host} does not see {os.path.dirname(sign)}: results have to be a folder that all machines share under one name")
    with _TURN:
        return run(job)


@lru_cache
def _software():
    """What values rest on: torch, whatever device it is built for, and the code of this library as it lies on the disk."""
    root = Path(__file__).parents[1]
    code = sha256()
    for path in sorted(root.rglob("*.py")):
        code.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return {name: version(name).split("+")[0] for name in ("torch", "torchvision")} | {"xai-repro with code": code.hexdigest()[:12]}


@contextmanager
def _sign(results):
    """A file in the folder of the shards while jobs run: a worker that sees it sees that folder. None where there is none."""
    if results is None:
        yield None
        return
    sign = Path(results, "shards", f"cluster.{uuid4().hex[:8]}.tmp").absolute()  # named so that one of a killed run is swept away
    sign.touch()
    try:
        yield str(sign)
    finally:
        sign.unlink(missing_ok=True)
