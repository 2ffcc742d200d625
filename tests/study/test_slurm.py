"""The script that starts workers through SLURM: what it would submit, and all of it with a stand-in for SLURM."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Timer

import pytest
import xai_repro as xr

pytest.importorskip("dask_jobqueue")
SCRIPT = Path(__file__).parents[2] / "data_scripts/slurm_cluster.py"
SBATCH = """#!/bin/bash
cp "$1" job.sh  # as SLURM does: the file goes
setsid bash job.sh >job.log 2>&1 &
echo $! >>jobs
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
kill -- -$1
echo $1 >>cancelled
"""


def call(folder, *words, **environment):
    return subprocess.run([sys.executable, SCRIPT, *words], cwd=folder, capture_output=True, text=True, env={"PATH": "", **environment}, timeout=60)


def test_the_job_script(tmp_path):
    words = ["--show", "--partition", "gpu", "--account", "lab", "--hours", "1.5", "--cpus", "3", "--memory", "20GB", "--prologue", "module load cuda"]
    told = call(tmp_path, *words, XAI_REPRO_CACHE="/shared/my cache")
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    for line in ("#SBATCH -p gpu", "#SBATCH -A lab", "#SBATCH -t 01:30:00", "#SBATCH --cpus-per-task=3", "#SBATCH --gres=gpu:1", "#SBATCH -n 1"):
        assert line in lines
    prologue = [line for line in lines if not line.startswith("#")]
    at = [next(n for n, line in enumerate(prologue) if line.startswith(start)) for start in ("module load cuda", "export OMP_NUM_THREADS=3", "export XAI_REPRO_CACHE='/shared/my cache'", sys.executable)]
    assert at == sorted(at)
    worker = prologue[at[-1]]
    assert "distributed.cli.dask_worker tcp://" in worker and "--nthreads 1 " in worker and "--nworkers" not in worker and "--lifetime 5100s" in worker
    assert "--gres" not in call(tmp_path, "--show", "--gpus", "0").stdout


def test_without_slurm_it_says_so(tmp_path):
    told = call(tmp_path)
    assert told.returncode == 2 and "there is no sbatch here" in told.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_workers_come_work_and_go(tmp_path):
    """sbatch starts the job script here, scancel ends it."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    started = subprocess.Popen([sys.executable, SCRIPT, "--workers", "1", "--gpus", "0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ | {"PATH": path})
    watch = Timer(90, started.kill)  # so that no line is waited for without end
    watch.start()
    address, waiting = started.stdout.readline().split(": ", 1)
    assert address.startswith("tcp://") and "waiting for the first of 1 jobs" in waiting
    assert started.stdout.readline() == f"a worker is there: xai-repro run --profile paper --scheduler {address}\n"
    assert len(xr.evaluate("mini-vgg", "mini-birds", "grad-cam", "average-drop", limit=5, scheduler=address, results=tmp_path / "results")) == 5
    started.send_signal(signal.SIGTERM)
    assert started.wait(30) == 0 and "what they finished is kept" in started.stdout.read()
    watch.cancel()
    jobs = (tmp_path / "jobs").read_text().split()
    assert (tmp_path / "cancelled").read_text().split() == jobs and len(jobs) == 1
