#!/usr/bin/env bash
# Builds the wheel, installs it alone in a new environment and adds, identifies and serves with it: launch/wheel.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
uv build --quiet --wheel --out-dir "$work/dist" .
uv venv --quiet --python "${1:-3.12}" "$work/venv"
uv pip install --quiet --python "$work/venv/bin/python" --constraint requirements.lock "$(echo "$work"/dist/*.whl)"
echo "base installation: $(du -sm "$work/venv" | cut -f1) MB"
top=$(unzip -Z1 "$work"/dist/*.whl | cut -d/ -f1 | grep -v '\.dist-info$' | sort -u)
[ "$top" = confp_jax ] || { echo "error: expected confp_jax alone in the wheel, found $top" >&2; exit 1; }
cd "$work" # nothing of the checkout can be imported from here
export XDG_CACHE_HOME=$work/cache
song=$checkout/examples/music/subvulture_the-money-ran-out-rudy.mp3
venv/bin/confp add music.db "$song" "$checkout/examples/music/weirwood_kart-grand-prix.mp3"
venv/bin/confp identify music.db "$song" | tee answer
grep -q "rudy at" answer
uv pip install --quiet --python venv/bin/python --constraint "$checkout/requirements.lock" "confp-jax[serve] @ file://$(echo "$work"/dist/*.whl)"
venv/bin/confp serve music.db --port 8765 &
server=$!
for _ in $(seq 120); do
  curl -sf http://127.0.0.1:8765/readyz > /dev/null && break
  sleep 1
done
curl -sS --fail-with-body -H "Content-Type: audio/mpeg" --data-binary "@$song" http://127.0.0.1:8765/v1/identify | tee answer
grep -q rudy answer
echo "the wheel adds, identifies and serves"
