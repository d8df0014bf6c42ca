#!/usr/bin/env bash
# One task per node, with all of the node's GPUs; JAX finds the other tasks through Slurm.
#   sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh --config=picmm:places2 --workdir=DIR
#   sbatch --gpus-per-node=8 launch/slurm.sh --module=picjax.eval --workdir=DIR
# Options of sbatch replace those below. Variables:
#   PYTHON    such as "apptainer exec --nv picjax.sif python"; default: the checkout's .venv
#   RESTARTS  how often the job is started again, at most (20)
#SBATCH --job-name=picjax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=picjax-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
module=picjax.train
if [[ "${1:-}" == --module=* ]]; then
  module=${1#--module=}
  shift
fi

# Slurm runs a copy of this file; the job knows where the original lies.
job=$(scontrol show job "$SLURM_JOB_ID")
script=$(sed -n 's/^ *Command=\([^ ]*\).*/\1/p' <<<"$job")
python=("$(dirname "$script")/../.venv/bin/python")
[ -z "${PYTHON:-}" ] || read -ra python <<<"$PYTHON"

# Since Slurm 22.05 srun gives a task one CPU, whatever the job has.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
code=0
srun --kill-on-bad-exit=1 "${python[@]}" -m "$module" "$@" || code=$?

# 75: stopped and saved; 128 and more: killed, as when memory or another node is lost.
if [ $code -eq 75 ] || [ $code -ge 128 ]; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt "${RESTARTS:-20}" ]; then
    echo "slurm.sh: exit $code, restart $((${SLURM_RESTART_COUNT:-0} + 1))" >&2
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit $code
