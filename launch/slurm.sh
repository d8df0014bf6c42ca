#!/usr/bin/env bash
# One task per node; JAX detects the others through Slurm.
#   sbatch --nodes=4 launch/slurm.sh --config=configs/picmm.py:places2 --workdir=DIR
#SBATCH --job-name=picjax
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
# 75: the run has saved and is not finished.
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m picjax.train "$@" ||
  { code=$?; [ $code -ne 75 ] || scontrol requeue "$SLURM_JOB_ID"; exit $code; }
