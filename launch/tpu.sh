#!/usr/bin/env bash
# Runs the same command on every worker of a Cloud TPU slice.
#   launch/tpu.sh NAME ZONE --config=configs/picmm.py:places2 --workdir=DIR
set -euo pipefail
name=$1 zone=$2
shift 2
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  cd picjax && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]' &&
  .venv/bin/python -m picjax.train $*"
