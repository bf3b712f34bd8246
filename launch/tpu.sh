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
  train ARGUMENT... start or continue training on every worker, detached: arguments of confp_jax.training.train
  status            the slice's state, and the last line of each worker's log
  logs [LINES]      the first worker's log
  stop              save and stop training; `watch` then ends
  resume ARGUMENT... after a preemption: ask for the slice again, set it up and continue the last `train` (with these, too)
  watch [--delete-when-finished]
                    `resume` whenever the slice was preempted, until training has finished or was stopped
  delete            give the slice back (checkpoints stay in the bucket); `watch` then ends

Variables: TPU_NAME, ZONE, ACCELERATOR (v4-8, v5litepod-8, v5p-8, v6e-8, ...),
  DATA (gs:// folder that data_prep.make_train's output was copied to), WORKDIR (gs:// folder of this run; `state` in it says
  running, stopped, finished or failed, and logs/ holds every worker's log).
  RUNTIME is the accelerator's own unless it is set. A worker's boot disk holds 100 GiB: DATA_DISK (the name of a disk,
  projects/P/zones/Z/disks/D, whose root is the data) is attached read-only, and then nothing is copied.
  NETWORK, SUBNETWORK and SERVICE_ACCOUNT are optional.
  PROJECT is optional; SPOT=0 asks for a slice that is not preempted. SHARES (a multiple of the number of hosts) has each host
  copy only its part of the training shards; batches are then drawn evenly from that many groups of shards, on any number of
  hosts.

  export TPU_NAME=confp ZONE=us-west4-a ACCELERATOR=v5litepod-16
  export DATA=gs://mine/fma WORKDIR=gs://mine/runs/large
  launch/tpu.sh create && launch/tpu.sh setup && launch/tpu.sh train --config=configs/fma.py:large && launch/tpu.sh watch --delete-when-finished
EOF
}

tpus() { # gcloud compute tpus GROUP COMMAND NAME ..., in the zone
  gcloud compute tpus "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}
}

on_workers() { tpus tpu-vm ssh "$TPU_NAME" --worker="${2:-all}" --command="$1"; }

# mark STATE: what `watch` does next, kept beside the checkpoints.
mark() { echo "$1" | gcloud storage cp - "$WORKDIR/state"; }

marked() { gcloud storage cat "$WORKDIR/state" 2>/dev/null || echo none; }

# runtime: the software version of the accelerator's machines.
runtime() {
  case $ACCELERATOR in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) die "ACCELERATOR=$ACCELERATOR: set RUNTIME, for no runtime version is known for it" ;;
  esac
}

# gcloud asks for the passphrase of each of several workers at once, unless an agent holds the key.
check_agent() {
  case $ACCELERATOR in
    v5litepod-[1-8] | v6e-[1-8] | v2-8 | v3-8 | v4-8 | v5p-8) return ;; # one host
  esac
  ssh-add -l >/dev/null 2>&1 \
    || die "a slice of several hosts needs your key in an ssh agent: eval \$(ssh-agent) && ssh-add ~/.ssh/google_compute_engine"
}

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
  local version spot=--spot
  [ "${SPOT:-1}" = 1 ] || spot=
  check_agent
  version=${RUNTIME:-$(runtime)}
  tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" --accelerator-type="$ACCELERATOR" \
    --runtime-version="$version" ${spot:+"$spot"} ${NETWORK:+--network="$NETWORK"} \
    ${SUBNETWORK:+--subnetwork="$SUBNETWORK"} ${SERVICE_ACCOUNT:+--service-account="$SERVICE_ACCOUNT"} \
    ${DATA_DISK:+--data-disk=source="$DATA_DISK",mode=read-only}
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
  wait_for_ssh
}

# A slice is ACTIVE a while before its machines let anybody in.
wait_for_ssh() {
  local tries
  for ((tries = 1; tries < ${SSH_TRIES:-20}; tries++)); do
    if on_workers true >/dev/null 2>&1; then return; fi
    echo "the workers do not answer yet"
    sleep "${POLL_S:-30}"
  done
  on_workers true
}

setup() {
  local archive
  archive=$(mktemp)
  pack "$archive"
  tpus tpu-vm scp "$archive" "$TPU_NAME:confp_jax.tar.gz" --worker=all
  rm -f "$archive"
  on_workers "$(install_command prepare,tpu)"
  copy_data "$(num_workers)"
}

num_workers() { on_workers 'echo worker' | grep -c worker; }

copy_data() { # NUM_WORKERS
  local worker every copying=()
  if [ -n "${DATA_DISK:-}" ]; then
    on_workers "$(mount_command)"
    return
  fi
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

# Mounts the disk that is attached and not in use; a read-only one has no journal to replay.
mount_command() {
  cat <<'EOF'
set -euo pipefail
mkdir -p ~/data
if mountpoint -q ~/data; then exit 0; fi
for disk in $(lsblk --nodeps --noheadings --output NAME,TYPE | awk '$2 == "disk" {print $1}'); do
  [ -z "$(lsblk --noheadings --output MOUNTPOINT "/dev/$disk" | tr -d ' \n')" ] || continue
  if sudo mount -o ro,noload "/dev/$disk" ~/data; then exit 0; fi
done
echo "error: no disk is attached that could be mounted; see DATA_DISK" >&2
exit 2
EOF
}

train() {
  [ "${SHARES:-1}" -le 1 ] || set -- "$@" "--config.data.num_shares=$SHARES"
  # Kept beside the checkpoints, so that `resume` works from any machine.
  quoted "$@" | gcloud storage cp - "$WORKDIR/train_arguments.txt"
  [ "$(num_workers)" -le 1 ] || set -- --distributed "$@"
  mark running
  on_workers "$(KEEP_IN=$WORKDIR/logs STATE_AT=$WORKDIR/state train_command "$WORKDIR" "$@")"
}

stop() {
  mark stopped
  on_workers "$(stop_command)"
}

give_back() { tpus queued-resources delete "$TPU_NAME" --force --quiet; }

delete() {
  if [ -n "${WORKDIR:-}" ] && [ "$(marked)" = running ]; then mark stopped; fi
  give_back
}

resume() {
  local arguments
  case $(state) in
    ACTIVE) ;;
    FAILED | SUSPENDED | PREEMPTED) # a request that is over stays in the way of the next
      give_back
      create
      ;;
    ABSENT) create ;;
    UNKNOWN) echo "error: gcloud does not say how the slice is; try again" >&2; return 1 ;;
    *) wait_until_active ;;
  esac
  setup
  eval "arguments=($(gcloud storage cat "$WORKDIR/train_arguments.txt"))" # quoted by `train`
  train ${arguments[@]+"${arguments[@]}"} "$@"
}

watch() { # [--delete-when-finished]
  local now resumed=yes
  while true; do
    case $(marked) in
      finished)
        [ "${1:-}" != --delete-when-finished ] || [ "$(state)" = ABSENT ] || give_back
        echo "finished"
        return 0
        ;;
      failed) echo "error: training failed; see '$0 logs' or $WORKDIR/logs" >&2; return 1 ;;
      stopped) echo "training was stopped; '$0 resume' continues it"; return 0 ;;
    esac
    now=$(state)
    if [ "$now" = UNKNOWN ]; then
      echo "gcloud does not answer: waiting"
    elif [ "$now" != ACTIVE ] || [ "$resumed" = no ]; then
      echo "the slice is $now: resuming"
      resumed=yes
      "$0" resume || resumed=no # no capacity, or lost again meanwhile
    else # a worker that could not write to the bucket says so in its log alone
      case $(on_workers "tail -n 1 ~/train.log" 0) in
        finished*) mark finished; continue ;;
        failed*) mark failed; continue ;;
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
  create) need ACCELERATOR ;;
  setup) [ -n "${DATA_DISK:-}" ] || need DATA ;;
  train | stop) need WORKDIR ;;
  resume | watch)
    need ACCELERATOR WORKDIR
    [ -n "${DATA_DISK:-}" ] || need DATA
    ;;
esac
if [ "$command" = watch ] && [ $# -gt 0 ] && [ "$*" != --delete-when-finished ]; then
  die "watch takes --delete-when-finished and nothing else"
fi
case $command in
  status)
    echo "slice: $(state)"
    [ -z "${WORKDIR:-}" ] || echo "training: $(marked)"
    on_workers "$(status_command)"
    ;;
  logs) on_workers "tail -n ${1:-50} ~/train.log" 0 ;;
  *) "$command" "$@" ;;
esac
