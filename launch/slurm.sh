#!/usr/bin/env bash
# One task per node; JAX finds the other processes through Slurm.
#   sbatch --nodes=4 launch/slurm.sh --config=configs/picmm.py:places2 --workdir=DIR
#SBATCH --job-name=picjax
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m picjax.train "$@"
