"""The script that starts workers through SLURM: what it would submit."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dask_jobqueue")
SCRIPT = Path(__file__).parents[2] / "data_scripts/slurm_cluster.py"


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
