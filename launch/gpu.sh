#!/usr/bin/env bash
# Trains on a host with GPUs that ssh reaches; several hosts work together.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

usage() {
  cat <<'EOF'
usage: launch/gpu.sh COMMAND [ARGUMENT...]

  setup             install Python 3.12, the lock file's packages with CUDA and this checkout, and copy the data there
  train ARGUMENT... start or continue training, detached: arguments of confp_jax.training.train
  status            whether it runs, and the last line of each log
  logs [LINES]      the first host's log
  stop              save and stop training
  resume ARGUMENT... continue the last `train` (with these, too)

Variables: HOSTS ("user@one user@two"), DATA (the shards: a gs:// folder, a folder of this machine, or an rsync source),
  WORKDIR (of this run; gs:// for several hosts).
  PORT, of the first host that the others join (default 8476). SHARES (a multiple of the number of hosts) has each host copy only
  its part of the training shards; batches are then drawn evenly from that many groups of shards, on any number of hosts.
EOF
}

on_host() { ssh -o BatchMode=yes "$1" "bash -c $(quoted "$2")"; }

on_workers() {
  local host
  for host in $HOSTS; do on_host "$host" "$1"; done
}

first_host() { echo "${HOSTS%% *}"; }

setup() {
  local archive host every number=0
  archive=$(mktemp)
  pack "$archive"
  for host in $HOSTS; do scp -q "$archive" "$host:confp_jax.tar.gz"; done
  rm -f "$archive"
  on_workers "$(install_command prepare,gpu)"
  every=$(parts "$(wc -w <<<"$HOSTS")")
  for host in $HOSTS; do
    case $DATA in
      *://*) on_host "$host" "$(data_command "$DATA" $((number % every)) "$every")" ;;
      *) local_data "$host" "$DATA" ;;
    esac
    number=$((number + 1))
  done
}

train() {
  local host number=0 num address
  num=$(wc -w <<<"$HOSTS")
  [ "${SHARES:-1}" -le 1 ] || set -- "$@" "--config.data.num_shares=$SHARES"
  address=$(first_host)
  for host in $HOSTS; do
    on_host "$host" "$(quoted printf '%s\n' "$(quoted "$@")") > ~/train_arguments.txt"
    if [ "$num" -gt 1 ]; then
      on_host "$host" "export JAX_COORDINATOR_ADDRESS=${address#*@}:${PORT:-8476} JAX_NUM_PROCESSES=$num JAX_PROCESS_ID=$number
$(train_command "$WORKDIR" --distributed "$@")"
    else
      on_host "$host" "$(train_command "$WORKDIR" "$@")"
    fi
    number=$((number + 1))
  done
}

resume() {
  local arguments
  eval "arguments=($(on_host "$(first_host)" "cat ~/train_arguments.txt"))" # quoted by `train`
  train ${arguments[@]+"${arguments[@]}"} "$@"
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
  help | -h | --help) usage; exit 0 ;;
  setup | train | status | logs | stop | resume) ;;
  *) usage >&2; die "unknown command '$command'" ;;
esac
need HOSTS
case $command in
  setup) need DATA ;;
  train | resume) need WORKDIR ;;
esac
case $command in
  status) on_workers "$(status_command)" ;;
  logs) on_host "$(first_host)" "tail -n ${1:-50} ~/train.log" ;;
  stop) on_workers "$(stop_command)" ;;
  *) "$command" "$@" ;;
esac
