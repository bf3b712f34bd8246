#!/usr/bin/env bash
# What tpu.sh and gpu.sh share: they run one command on every worker. Sourced; the caller defines `on_workers COMMAND`.

die() {
  echo "error: $1" >&2
  exit 2
}

# need NAME...: the environment must set these variables.
need() {
  local name missing=()
  for name in "$@"; do [ -n "${!name:-}" ] || missing+=("$name"); done
  [ ${#missing[@]} -eq 0 ] || die "set ${missing[*]} first; '$0 help' says what they are"
}

# quoted WORD...: the words as one string that a remote shell splits back into the same words.
quoted() { [ $# -eq 0 ] || printf '%q ' "$@"; }

# Installs this checkout with the versions of requirements.lock. uv brings Python 3.12: the images' own is older than ours.
install_command() { # EXTRAS
  cat <<EOF
set -euo pipefail
mkdir -p ~/confp_jax && tar -xzf ~/confp_jax.tar.gz -C ~/confp_jax && cd ~/confp_jax
command -v uv >/dev/null || [ -x ~/.local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh
export PATH=~/.local/bin:\$PATH
[ -x .venv/bin/python ] || uv venv --quiet --python 3.12 .venv
uv pip install --quiet --python .venv/bin/python --constraint requirements.lock --editable ".[$1]"
EOF
}

# Copies the data to this worker's disk: never the test shards, and of the training split only the shards number PART, PART + EVERY,
# PART + 2 EVERY, ... (confp_jax/data/sampling.py, ShardGroupDraw: worker number PART draws its rows of every batch from those). EVERY of 1
# is all of training. Nothing is copied where it would not fit; what is there already counts as room.
data_command() { # BUCKET_FOLDER PART EVERY
  cat <<EOF
set -euo pipefail
mkdir -p ~/data
data=$(quoted "${1%/}")
others='.*-test[.]array_record-.*'
if [ $3 -gt 1 ]; then
  num=\$(gcloud storage ls "\$data/*-training.array_record-00000-of-*" | sed 's/.*-of-0*//')
  numbers=\$(seq -f %05.0f 0 \$((num - 1)) | awk 'NR % $3 != ($2 + 1) % $3' | paste -sd '|' -)
  others="\$others|.*-training[.]array_record-(\$numbers)-of-.*"
fi
listed=\$(gcloud storage ls --long "\$data/**" | { grep -vE "\$others" || true; })
needed=\$(awk '\$1 ~ /^[0-9]+\$/ {n += \$1} END {printf "%.0f", n / 1024}' <<< "\$listed")
room=\$((\$(df -Pk ~/data | awk 'NR == 2 {print \$4}') + \$(du -sk ~/data/ | cut -f 1)))
echo "data: \$((needed / 1048576)) GiB to copy, room for \$((room / 1048576)) GiB"
if [ "\$needed" -gt "\$room" ]; then
  echo "error: \$data does not fit on this worker's disk; attach a disk (DATA_DISK), or have each host copy a part (SHARES)" >&2
  exit 2
fi
gcloud storage rsync --recursive --exclude="\$others" "\$data" ~/data
EOF
}

# Copies a folder of this machine, or an rsync source, to a host that ssh reaches; never the test shards.
local_data() { # HOST SOURCE
  rsync --archive --partial --exclude='*-test.array_record-*' -e 'ssh -o BatchMode=yes' "${2%/}/" "$1:data/"
}

# parts NUM_WORKERS: in how many parts the workers can divide SHARES groups of training shards.
parts() {
  local a=${SHARES:-1} b=$1
  while [ "$b" -gt 0 ]; do set -- "$b" $((a % b)) && a=$1 b=$2; done
  echo "$a"
}

# Starts training detached, starts it again when it crashed or the machine asked it to leave, and writes one log.
# With KEEP_IN (a bucket's folder) the log is kept there as well, and STATE_AT says "finished" or "failed" at the end.
train_command() { # WORKDIR ARGUMENT...
  local run=$1 keep_in state_at
  shift
  keep_in=$(printf %q "${KEEP_IN:-}")
  state_at=$(printf %q "${STATE_AT:-}")
  cat <<EOF
set -euo pipefail
cd ~/confp_jax
if [ -f ~/train.pid ] && kill -0 "\$(cat ~/train.pid)" 2>/dev/null; then echo "already running"; exit 0; fi
rm -f ~/train.stop
cat > ~/train.sh <<'SCRIPT'
#!/usr/bin/env bash
cd ~/confp_jax || exit 1
keep() { [ -z $keep_in ] || gcloud storage cp ~/train.log $keep_in/"\$(hostname)\${JAX_PROCESS_ID:-}.log"; }
mark() { keep; [ -z $state_at ] || echo "\$1" | gcloud storage cp - $state_at; }
(while sleep 300; do keep; done) > /dev/null 2>&1 &
keeper=\$!
trap 'kill \$keeper 2> /dev/null' EXIT
tries=0
while true; do
  .venv/bin/python -m confp_jax.training.train --workdir=$(quoted "$run") $(quoted "$@") --config.data.dir="\$HOME/data"
  status=\$?
  if [ -f ~/train.stop ]; then keep; echo "stopped"; exit 0; fi
  if [ "\$status" -eq 0 ]; then
    # It saved and left because the machine goes away, if it did not get to the end.
    tail -n 1 ~/train.log | grep -q "the same command continues it" || { mark finished; echo "finished"; exit 0; }
  fi
  tries=\$((tries + 1))
  # 2 is an error of the settings or the data: the same command would end the same way. All else may pass.
  if [ "\$status" -eq 2 ] || [ "\$tries" -ge 20 ]; then mark failed; echo "failed with status \$status"; exit "\$status"; fi
  echo "ended with status \$status; starting again (\$tries)"
  sleep "\${RESTART_DELAY_S:-30}"
  [ ! -f ~/train.stop ] || exit 0
done
SCRIPT
chmod +x ~/train.sh
nohup setsid ~/train.sh >> ~/train.log 2>&1 < /dev/null &
echo \$! > ~/train.pid
echo "started; log in ~/train.log"
EOF
}

status_command() {
  cat <<'EOF'
if [ -f ~/train.pid ] && kill -0 "$(cat ~/train.pid)" 2>/dev/null; then echo "running"; else echo "not running"; fi
tail -n 1 ~/train.log 2>/dev/null || true
EOF
}

# SIGTERM to the trainer: it saves and leaves; the wrapper sees train.stop and does not start it again.
stop_command() {
  cat <<'EOF'
touch ~/train.stop
[ -f ~/train.pid ] || exit 0
pid=$(cat ~/train.pid)
pkill -TERM -P "$pid" 2>/dev/null || true
for _ in $(seq "${STOP_WAIT_S:-120}"); do kill -0 "$pid" 2>/dev/null || { echo "stopped"; exit 0; }; sleep 1; done
echo "still saving after ${STOP_WAIT_S:-120} s; see the log" >&2
exit 1
EOF
}

# pack FILE: the last commit of this checkout.
pack() {
  local here
  here="$(dirname "${BASH_SOURCE[0]}")/.."
  if [ -n "$(git -C "$here" status --porcelain)" ]; then
    echo "warning: what is not committed is not sent:" >&2
    git -C "$here" status --short >&2
  fi
  git -C "$here" archive --format=tar.gz --output="$1" HEAD
}
