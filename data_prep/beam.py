"""make_train as an Apache Beam pipeline: every shard is one element, made by the same code, so
that its bytes are the same.

    python -m data_prep.beam --config=configs/prepare.py:large \\
        --config.music_dir=/mnt/fma_large ... --config.out=/mnt/prepared \\
        --beam=--runner=DataflowRunner --beam=--project=... --beam=--region=...

The folders must be seen under the same names by all workers (a shared or mounted file system). The
program that starts the pipeline prepares the sounds before it and writes the metadata after it.
Here, with two processes:

    --beam=--runner=FnApiRunner --beam=--direct_num_workers=2
    --beam=--direct_running_mode=multi_processing
"""

from collections.abc import Callable, Sequence

import apache_beam
from absl import flags
from apache_beam.options.pipeline_options import PipelineOptions
from ml_collections import ConfigDict
from rich.console import Console

from confp_jax import command_line
from confp_jax.typed_config import from_mapping
from data_prep.config import PrepareConfig
from data_prep.make_train import prepare
from data_prep.shards import Runner, Shard


def main(config: ConfigDict, values: flags.FlagValues) -> int:
    """Prepares the dataset that the configuration describes, wherever Beam runs it."""
    chosen = from_mapping(PrepareConfig, config)
    console = Console(stderr=True)
    return prepare(chosen, console, run_with(values.beam)).exit_status


def run_with(options: Sequence[str]) -> Runner:
    """Returns what makes shards by a pipeline with these options (`--runner=...` and others)."""

    def run(todo: list[Shard], write: Callable[[Shard], object]) -> list[Shard]:
        if todo:
            with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
                shards = pipeline | "Shards" >> apache_beam.Create(todo) | apache_beam.Reshuffle()
                _ = shards | "Write" >> apache_beam.Map(write)
        return todo

    return run


if __name__ == "__main__":
    flags.DEFINE_multi_string(
        "beam",
        [],
        "An option of Beam's pipeline, such as --runner=FlinkRunner; may be given again.",
    )
    command_line.run(main, config_file="configs/prepare.py")
