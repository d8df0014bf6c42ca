#!/usr/bin/env bash
# A Cloud TPU slice and one command on all of its workers.
#   launch/tpu.sh create NAME ZONE TYPE              such as v5litepod-16; SPOT=1: spot
#   launch/tpu.sh run    NAME ZONE TYPE --config=picmm:places2 --workdir=DIR
#   launch/tpu.sh run    NAME ZONE TYPE --module=picjax.eval --workdir=DIR
#   launch/tpu.sh attach NAME ZONE                   follows the log; exits as the command does
#   launch/tpu.sh delete NAME ZONE
# `run` copies the last commit, starts the command in the background and attaches to it. It
# starts it again after exit 75, and on a new slice after a preemption, at most RESTARTS
# (20) times. DIR is a bucket (gs://) or a folder that all workers mount. With --dry-run first,
# everything is printed and nothing is run.
set -euo pipefail
cd "$(dirname "$0")/.."
dry=false
[ "${1:-}" != --dry-run ] || { dry=true; shift; }
[ $# -ge 3 ] || { sed -n '2,11s/^# //p' "$0" >&2; exit 2; }
command=$1 name=$2 zone=$3
shift 3

tpu() {
  if $dry; then printf 'gcloud compute tpus'; printf ' %q' "$@" "--zone=$zone"; echo
  else gcloud compute tpus "$@" "--zone=$zone"; fi
}
workers() { tpu tpu-vm ssh "$name" --worker="$1" --command="$2"; }
state() {
  $dry || tpu queued-resources describe "$name" --format='value(state.state)' 2>/dev/null || true
}

create() {
  tpu queued-resources create "$name" --node-id="$name" --accelerator-type="$1" \
    --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" ${SPOT:+--spot}
  until $dry || [ "$(state)" = ACTIVE ]; do sleep "${POLL:-20}"; done
}

delete() { tpu queued-resources delete "$name" --force --quiet; }

copy() { # the last commit, in an environment of Python 3.12
  local folder
  folder=$(mktemp -d)
  git archive --output="$folder/picjax.tar.gz" HEAD picjax configs pyproject.toml setup.py README.md LICENSE
  tpu tpu-vm scp "$folder/picjax.tar.gz" "$name:" --worker=all
  rm -r "$folder"
  workers all 'mkdir -p picjax && tar xzf picjax.tar.gz -C picjax && cd picjax &&
    python3 -m pip install -q --user uv && ~/.local/bin/uv venv -q --allow-existing -p 3.12 &&
    ~/.local/bin/uv pip install -q -e ".[tpu,gcs]"'
}

start() { # detached: a lost connection does not end it
  local module=picjax.train line
  if [[ "${1:-}" == --module=* ]]; then module=${1#--module=}; shift; fi
  line=$(printf '%q ' .venv/bin/python -m "$module" "$@")
  line=$(printf %q "$line >> log 2>&1; echo \$? > exit")
  workers all "cd picjax && rm -f exit && { setsid bash -c $line > /dev/null 2>&1 < /dev/null & echo \$! > pid; }"
}

attach() { # the exit of worker 0's command; 75 if the slice was preempted
  local code=
  until [[ "$code" =~ ^[0-9]+$ ]]; do
    if ! $dry && [ "$(state)" != ACTIVE ]; then return 75; fi
    workers 0 'cd picjax && tail -n 20 --pid="$(cat pid)" -F log' || true
    code=$(workers 0 'cat picjax/exit' || true)
    ! $dry || { echo "$code"; code=0; }
  done
  return "$code"
}

run() {
  local type=$1 code
  shift
  for ((restart = 0; restart <= ${RESTARTS:-20}; restart++)); do
    if $dry || [ "$(state)" != ACTIVE ]; then
      [ -z "$(state)" ] || delete
      create "$type"
    fi
    copy
    start "$@"
    code=0
    attach || code=$?
    [ $code -eq 75 ] || break
  done
  return $code
}

case $command in
  create | run | attach | delete) $command "$@" ;;
  *) echo "tpu.sh: $command is none of create, run, attach, delete" >&2; exit 2 ;;
esac
