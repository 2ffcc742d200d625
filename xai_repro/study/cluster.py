"""Jobs on a Dask cluster, which is asked whether it is there before anything waits for it."""

from concurrent.futures import CancelledError

PATIENCE = 15  # seconds without a scheduler, or without any worker, after which that is an error


def runner(scheduler, given):
    """A function (run, jobs, step) -> iterator of (job, result) that works the jobs off on a cluster.

    scheduler: address of the scheduler. given: the models and data sets, which have to be names.
    Raises ModuleNotFoundError without Dask, ValueError for objects.
    """
    try:
        from dask import distributed
    except ImportError:
        raise ModuleNotFoundError(
            f"scheduler='{scheduler}' needs Dask, which is not installed: "
            "pip install 'distributed>=2025' here and on the workers"
        ) from None
    objects = [type(one).__name__ for one in given if not isinstance(one, str)]
    if objects:
        raise ValueError(f"on a cluster models and data sets are given by name, so that they load there; given: {', '.join(objects)}")

    def work_off(run, jobs, step):
        failed = []
        with _client(distributed, scheduler) as cluster:
            futures = {cluster.submit(run, job, pure=False): job for job in jobs}
            for future in _finished(distributed, cluster, futures):
                job = futures[future]
                step(job.length)
                try:
                    result = future.result()
                except Exception as error:  # noqa: BLE001 - the other jobs go on; their shards are worth keeping
                    failed.append(f"{job.place}: {type(error).__name__}: {error}")
                else:
                    yield job, result
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(jobs)} jobs failed on the cluster {scheduler}; the first, {failed[0]}")

    return work_off


def _client(distributed, scheduler):
    """A client of a scheduler that has workers. Raises ConnectionError."""
    try:
        client = distributed.Client(scheduler, timeout=PATIENCE)
    except (OSError, ValueError) as error:  # ValueError: no address at all
        raise ConnectionError(f"no Dask scheduler answers at {scheduler} within {PATIENCE} seconds: {error}") from None
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        client.close()
        raise ConnectionError(f"the Dask scheduler at {scheduler} has no workers: start some with `dask worker {scheduler}`") from None
    return client


def _finished(distributed, client, futures):
    """The futures one after the other as they finish. Raises ConnectionError where nobody is left to finish them."""
    waiting = set(futures)
    while waiting:
        try:
            done, waiting = distributed.wait(waiting, timeout=PATIENCE, return_when="FIRST_COMPLETED")
        except TimeoutError:  # a long job, or nobody who does it
            if not client.nthreads():
                raise ConnectionError(f"the Dask cluster has lost its workers; {len(waiting)} of {len(futures)} jobs are not done") from None
        except CancelledError:
            raise ConnectionError(f"the Dask scheduler has gone; {len(waiting)} of {len(futures)} jobs are not done") from None
        else:
            yield from done
