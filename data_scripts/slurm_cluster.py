"""Start Dask workers through SLURM, one job and one GPU each, and print the address of their scheduler. They stay until this is interrupted.

python data_scripts/slurm_cluster.py --workers 8 --partition gpu --hours 12     on a login node, under tmux or screen
python data_scripts/slurm_cluster.py --workers 8 --partition gpu --show         only print the job script
"""

import os
import shlex
import shutil
import signal
import sys
import time
from typing import Annotated, Optional

import typer

EARLY = 300  # seconds before the end of its job at which a worker takes leave, so that it is not cut off in the middle
FOLDERS = ("XAI_REPRO_CACHE", "XAI_REPRO_DATA")  # environment variables: a worker has to find files where this process does


def options(cpus, memory, gpus, hours, partition, account, prologue, interface, port, logs):
    """The arguments of dask_jobqueue.SLURMCluster: one process of one thread in each job, which has the processor's cores to itself."""
    minutes = round(60 * hours)
    return {
        "cores": 1, "processes": 1, "memory": memory, "job_cpu": cpus, "walltime": f"{minutes // 60:02d}:{minutes % 60:02d}:00",
        "queue": partition, "account": account, "interface": interface, "log_directory": logs, "python": sys.executable,
        "job_extra_directives": [f"--gres=gpu:{gpus}"] if gpus else [],
        # the cores are for torch, in the one thread that Dask uses
        "job_script_prologue": [*prologue, f"export OMP_NUM_THREADS={cpus}", *(f"export {name}={shlex.quote(os.environ[name])}" for name in FOLDERS if name in os.environ)],
        "worker_extra_args": ["--lifetime", f"{max(60 * minutes - EARLY, 60)}s"],
        "scheduler_options": {"port": port, "dashboard_address": ":0"},
    }  # fmt: skip


def main(
    workers: Annotated[int, typer.Option(min=1, help="Jobs to keep running; a job that ends is replaced.")] = 4,
    cpus: Annotated[int, typer.Option(min=1, help="Cores of a job.")] = 4,
    memory: Annotated[str, typer.Option(help="Of a job.")] = "32GB",
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of a job, 1 or none.", max=1)] = 1,
    hours: Annotated[float, typer.Option(min=0.1, help="Time limit of a job.")] = 8,
    partition: Annotated[Optional[str], typer.Option(help="Of SLURM; by default its own.")] = None,
    account: Annotated[Optional[str], typer.Option(help="Of SLURM; by default yours.")] = None,
    prologue: Annotated[Optional[list[str]], typer.Option(help="A line of the job script before the worker starts, such as 'module load cuda'; may be given several times.")] = None,
    interface: Annotated[Optional[str], typer.Option(help="Network by which this machine and the nodes reach each other, such as ib0.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the scheduler; 0: a free one.")] = 0,
    logs: Annotated[str, typer.Option(help="Folder of the jobs' logs.")] = "slurm_logs",
    show: Annotated[bool, typer.Option("--show", help="Print the job script and start nothing.")] = False,
):
    """Keep Dask workers running through SLURM, for `xai-repro run --scheduler` and `xr.evaluate(scheduler=...)`."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        print("error: dask-jobqueue is not installed: pip install 'xai-repro[cluster]'", file=sys.stderr)
        raise typer.Exit(2) from None
    if not show and not shutil.which("sbatch"):
        print("error: there is no sbatch here: start this on a login node of a SLURM cluster, or with --show to see the job script", file=sys.stderr)
        raise typer.Exit(2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an end by `kill` cancels the jobs, too
    with SLURMCluster(**options(cpus, memory, gpus, hours, partition, account, prologue or [], interface, port, logs)) as cluster:
        if show:
            print(cluster.job_script())
            return
        cluster.adapt(minimum_jobs=workers, maximum_jobs=workers)
        print(f"{cluster.scheduler_address}: waiting for the first of {workers} jobs; Ctrl-C ends them all", flush=True)
        try:
            cluster.wait_for_workers(1)
            print(f"a worker is there: xai-repro run --profile paper --scheduler {cluster.scheduler_address}", flush=True)
            while True:
                time.sleep(60)
        except KeyboardInterrupt:
            print("ending the jobs; what they finished is kept", flush=True)


if __name__ == "__main__":
    typer.run(main)
