#!/usr/bin/env bash
# Sets up .venv where it is missing, and passes the tests. Arguments go to pytest: ./launch/test.sh -k match
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "$0")/setup.sh"
setup prepare,evaluate,parquet,milvus,serve,docs,dev
# Two workers fill two cores only with one BLAS thread each.
export OPENBLAS_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE # else each of the processes that tests start compiles all modules again
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} # also where libtpu is installed and there is no TPU
# In the order of tests/conftest.py: the folder that takes longest comes first.
exec .venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
