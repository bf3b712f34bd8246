#!/usr/bin/env bash
# Makes .venv with Python 3.11 to 3.14 and the versions of requirements.lock. Sourced by the other scripts: setup EXTRAS
setup() {
  local extras=$1 python candidate installed missing
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || return 1
  if [ ! -x .venv/bin/python ]; then
    for candidate in python3.12 python3.13 python3.14 python3.11 python3; do
      if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
        python=$candidate
        break
      fi
    done
    if [ -z "${python:-}" ]; then
      echo "error: Python 3.11 to 3.14 is needed; none was found on the PATH" >&2
      return 1
    fi
    echo "making .venv with $($python --version)"
    "$python" -m venv .venv
  fi
  # What is installed by this lock file, an extra a line: what is there is not asked for again.
  installed=.venv/installed-$(cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
  touch "$installed"
  missing=$(printf '%s' "$extras" | tr ',' '\n' | grep -vxF -f "$installed" || true)
  if [ -n "$missing" ]; then
    echo "installing (about a minute, 2.5 GB)"
    # uv takes a tenth of pip's time, and does not read where pip is told to look.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock uv
    index=${PIP_INDEX_URL:-$(.venv/bin/python -m pip config get global.index-url 2> /dev/null || true)}
    .venv/bin/uv pip install --quiet --python .venv/bin/python ${index:+--default-index "$index"} \
      --constraint requirements.lock --editable ".[$extras]"
    printf '%s\n' "$missing" >> "$installed"
  fi
}
