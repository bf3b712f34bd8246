#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any number of hosts, through `gcloud compute tpus`.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

usage() {
  cat <<'EOF'
usage: launch/tpu.sh COMMAND [ARGUMENT...]

  create            ask for a spot TPU slice as a queued resource, and wait until it is there
  setup             install Python 3.12, the lock file's packages and this checkout on every worker, and copy the data there
  train ARGUMENT... start (or go on with) training on every worker, detached: arguments of confp_jax.training.train
  status            the slice's state, and the last line of each worker's log
  logs [LINES]      the first worker's log
  stop              save and stop training
  resume ARGUMENT... after a preemption: ask for the slice again, set it up and go on with the last `train` (and these)
  watch             `resume` whenever the slice was preempted, until training has finished
  delete            give the slice back (checkpoints stay in the bucket)

Variables: TPU_NAME, ZONE, ACCELERATOR (v5litepod-8, v6e-16, ...), RUNTIME (v2-alpha-tpuv5-lite, ...),
  DATA (gs:// folder that data_prep.make_train's output was copied to), WORKDIR (gs:// folder of this run).
  PROJECT is optional; SPOT=0 asks for a slice that is not preempted. SHARES (a multiple of the number of hosts) has each host
  copy its share of the training shards only; batches are then drawn evenly from so many shares, on any number of hosts alike.

  export TPU_NAME=confp ZONE=us-west4-a ACCELERATOR=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite
  export DATA=gs://mine/fma WORKDIR=gs://mine/runs/large
  launch/tpu.sh create && launch/tpu.sh setup && launch/tpu.sh train --config=configs/fma.py:large && launch/tpu.sh watch
EOF
}

tpus() { # gcloud compute tpus GROUP COMMAND NAME ..., in the zone
  gcloud compute tpus "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}
}

on_workers() { tpus tpu-vm ssh "$TPU_NAME" --worker="${2:-all}" --command="$1"; }

# state: the queued resource's; ABSENT where there is none, UNKNOWN where gcloud could not say.
state() {
  local now errors
  errors=$(mktemp)
  if now=$(tpus queued-resources describe "$TPU_NAME" --format="value(state.state)" 2>"$errors"); then
    echo "$now"
  elif grep -q NOT_FOUND "$errors"; then
    echo ABSENT
  else
    cat "$errors" >&2
    echo UNKNOWN
  fi
  rm -f "$errors"
}

create() {
  local spot=(--spot)
  [ "${SPOT:-1}" = 1 ] || spot=()
  tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" --accelerator-type="$ACCELERATOR" \
    --runtime-version="$RUNTIME" "${spot[@]}"
  wait_until_active
}

wait_until_active() {
  local now
  while now=$(state) && [ "$now" != ACTIVE ]; do
    case $now in
      FAILED | SUSPENDED | PREEMPTED | ABSENT) echo "error: the slice is $now; see gcloud compute tpus queued-resources describe" >&2; return 1 ;;
    esac
    echo "waiting for the slice: $now"
    sleep "${POLL_S:-30}"
  done
  echo "the slice is ACTIVE"
}

setup() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  pack "$archive"
  tpus tpu-vm scp "$archive" "$TPU_NAME:confp_jax.tar.gz" --worker=all
  rm -f "$archive"
  on_workers "$(install_command prepare,tpu)"
  copy_data "$(num_workers)"
}

num_workers() { on_workers 'echo worker' | grep -c worker; }

copy_data() { # NUM_WORKERS
  local worker every copying=()
  every=$(parts "$1")
  if [ "$every" -eq 1 ]; then
    on_workers "$(data_command "$DATA" 0 1)"
    return
  fi
  for ((worker = 0; worker < $1; worker++)); do
    on_workers "$(data_command "$DATA" $((worker % every)) "$every")" "$worker" &
    copying+=($!)
  done
  for worker in "${copying[@]}"; do wait "$worker"; done
}

train() {
  local multi=()
  [ "$(num_workers)" -le 1 ] || multi=(--distributed)
  [ "${SHARES:-1}" -le 1 ] || set -- "$@" "--config.data.num_shares=$SHARES"
  # Kept beside the checkpoints, so that `resume` works from any machine.
  quoted "$@" | gcloud storage cp - "$WORKDIR/train_arguments.txt"
  on_workers "$(train_command "$WORKDIR" "${multi[@]}" "$@")"
}

delete() { tpus queued-resources delete "$TPU_NAME" --force --quiet; }

resume() {
  local arguments
  case $(state) in
    ACTIVE) ;;
    FAILED | SUSPENDED | PREEMPTED) # a request that is over stays in the way of the next
      delete
      create
      ;;
    ABSENT) create ;;
    UNKNOWN) echo "error: gcloud does not say how the slice is; try again" >&2; return 1 ;;
    *) wait_until_active ;;
  esac
  setup
  eval "arguments=($(gcloud storage cat "$WORKDIR/train_arguments.txt"))" # quoted by `train`
  train "${arguments[@]}" "$@"
}

watch() {
  local now resumed=yes
  while true; do
    now=$(state)
    if [ "$now" = UNKNOWN ]; then
      echo "gcloud does not answer: waiting"
    elif [ "$now" != ACTIVE ] || [ "$resumed" = no ]; then
      echo "the slice is $now: resuming"
      resumed=yes
      "$0" resume || resumed=no # no capacity, or lost again meanwhile
    else
      case $(on_workers "tail -n 1 ~/train.log" 0) in
        finished*) echo "finished"; return 0 ;;
        failed*) echo "error: training failed; see '$0 logs'" >&2; return 1 ;;
      esac
    fi
    sleep "${POLL_S:-30}"
  done
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
  help | -h | --help) usage; exit 0 ;;
  create | setup | train | status | logs | stop | resume | watch | delete) ;;
  *) usage >&2; die "unknown command '$command'" ;;
esac
need TPU_NAME ZONE
case $command in
  create) need ACCELERATOR RUNTIME ;;
  setup) need DATA ;;
  train) need WORKDIR ;;
  resume | watch) need ACCELERATOR RUNTIME DATA WORKDIR ;;
esac
case $command in
  status)
    echo "slice: $(state)"
    on_workers "$(status_command)"
    ;;
  logs) on_workers "tail -n ${1:-50} ~/train.log" 0 ;;
  stop) on_workers "$(stop_command)" ;;
  *) "$command" "$@" ;;
esac
