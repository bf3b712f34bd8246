#!/usr/bin/env bash
# The main job on the clips that ship in examples/: prepare shards, train a tiny model (stopped and resumed), then index the
# music with the shipped model and identify noisy 3 s excerpts of it. Everything it makes goes to quickstart/.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "$0")/setup.sh"
setup prepare,evaluate
python=.venv/bin/python
work=quickstart
rm -rf "$work"
mkdir "$work"
# The resumed run, a process of its own, need not compile the step again.
export JAX_COMPILATION_CACHE_DIR=$PWD/$work/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
say() { printf '\n\033[1m== %s\033[0m\n' "$1"; }

say "1. Prepare: clean clips and 2 distorted replicas of each, as a TFDS dataset of ArrayRecord shards"
$python -m data_prep.make_train --config=configs/prepare.py --config.name=examples --config.music_dir=examples/music \
  --config.noise_dir=examples/noise --config.ir_dir=examples/ir --config.num_replicas=2 --config.out=$work/shards

say "2. Train the tiny model for 60 steps: stopped at 30 and resumed from its Orbax checkpoint"
train() {
  $python -m confp_jax.training.train --config=configs/fma.py:tiny --config.data.dir=$work/shards --workdir=$work/run \
    --config.num_epochs=60 --config.log_every_steps=10 --config.validation.every_steps=60 "$@"
}
train --stop_at_step=30
train

say "3. Index the music with the shipped model"
.venv/bin/confp models
.venv/bin/confp add $work/music.db examples/music
.venv/bin/confp list $work/music.db

say "4. Make 3 s excerpts with background noise at 10 dB, two of each track, and identify them"
$python -m data_prep.make_queries --config=configs/queries.py:all --config.music_dir=examples/music \
  --config.noise_dir=examples/noise --config.ir_dir=examples/ir --config.excerpts_per_track=2 \
  --config.conditions='("background_10db",)' --config.out=$work/queries
$python -m launch.quickstart_excerpts $work/queries $work/excerpts
.venv/bin/confp identify $work/music.db $work/excerpts/*.wav
.venv/bin/confp identify $work/music.db $work/excerpts/*.wav --json > $work/answers.json
$python -m launch.quickstart_excerpts --score $work/answers.json
