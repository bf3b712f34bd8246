"""Orbax: save and resume a run, and the encoder alone for inference.

The configuration travels inside, as JSON.
"""

import contextlib
import gc
import warnings
from collections.abc import Collection, Iterator
from typing import Any, cast

import jax
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from confp_jax.config import TrainConfig
from confp_jax.model.weights import (
    UNREADABLE,
    CheckpointError,
    absolute_path,
    check_metadata,
    complete_steps,
    metadata_of,
    orbax_is_quiet,
    read_metadata,
    reason_of,
    template,
)
from confp_jax.training.mesh import on_any_process
from confp_jax.training.resume_rules import refuse_changes
from confp_jax.training.step import TrainState
from confp_jax.typed_config import ConfigError


class UnreadableRunError(CheckpointError):
    """A run's checkpoints are there and none could be read; at the next start they may be."""


class SaveError(OSError):
    """A checkpoint could not be written; those before it are whole."""


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint could not be read, and an older one was taken."""


class Checkpoints:
    """The checkpoints of one run: `restore` once, then `save` whenever one `is_due`."""

    def __init__(self, folder: epath.Path, config: TrainConfig, allowed: Collection[str]):
        self._folder, self._config, self._allowed = folder, config, allowed
        self._stack = contextlib.ExitStack()
        self._checkpointer: ocp.training.Checkpointer | None = None

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, workdir: epath.PathLike, config: TrainConfig, *, allow_change: Collection[str] = ()
    ) -> Iterator["Checkpoints"]:
        """Opens (or begins) the run's folder, here or in a bucket; leaves only when the last save
        is complete.

        `allow_change` names fields that may differ from those the run was begun with
        (`changes.free_fields` always may).
        """
        checkpoints = cls(absolute_path(workdir) / "checkpoints", config, allow_change)
        with checkpoints._stack:
            yield checkpoints

    def restore(self, state: TrainState) -> tuple[TrainState, int]:
        """Returns the newest checkpoint's state and step; (state, 0) if there is none.

        Damaged ones are set aside as STEP.damaged, with a warning, once an older one has been
        read: where none can be read, the place may be at fault and not the files.

        Raises:
          ConfigError: the run was begun with settings that may not change.
          UnreadableRunError: there are checkpoints, and none of them can be read; they stay as
            they are.
          CheckpointError: there are only damaged ones, set aside.
        """
        found, unreadable = None, {}
        for step in reversed(complete_steps(self._folder)):
            found, reason = self._try_load(step, state)
            if not on_any_process(found is None):
                break
            found = None
            unreadable[step] = f"{self._folder / str(step)} ({reason})"
        if found is None:
            self._refuse_to_start_over(list(unreadable.values()))
        for step, told in unreadable.items():
            warnings.warn(
                f"damaged checkpoint set aside: {told}", DamagedCheckpointWarning, stacklevel=2
            )
            self._set_aside(step)
        self._checkpointer = self._open_checkpointer()
        self._stack.callback(self._close)
        return found or (state, 0)

    def _refuse_to_start_over(self, unreadable: list[str]) -> None:
        """Raises CheckpointError where a run that has checkpoints would begin at step 0 and write
        over them.
        """
        if unreadable:
            raise UnreadableRunError(
                f"no checkpoint of this run can be read: {'; '.join(unreadable)}; they were left "
                "as they are: try again when the disk or the bucket answers, or use another "
                "--workdir to start again"
            )
        aside = (
            sorted(path.name for path in self._folder.glob("*.damaged"))
            if self._folder.is_dir()
            else []
        )
        if aside:
            raise CheckpointError(
                f"{self._folder} holds only what was set aside as damaged ({', '.join(aside)}); to "
                "try one again rename it to its step alone, to start again use another --workdir "
                "or delete them"
            )

    def _open_checkpointer(self) -> ocp.training.Checkpointer:
        policies, settings = ocp.training.save_decision_policies, self._config.checkpoint
        return ocp.training.Checkpointer(
            str(self._folder),
            save_decision_policy=cast(Any, policies.FixedIntervalPolicy(settings.every_steps)),
            preservation_policy=cast(
                Any, ocp.training.preservation_policies.LatestN(settings.num_kept)
            ),
            cleanup_tmp_directories=True,
        )

    def _try_load(self, step: int, state: TrainState) -> tuple[tuple[TrainState, int] | None, str]:
        """Returns what a checkpoint holds, or None and why it cannot be read here."""
        with orbax_is_quiet():
            try:
                return self._load(step, state), "another process cannot read it"
            except ConfigError:
                raise
            except UNREADABLE as error:
                reason = reason_of(error)
            gc.collect()  # what Orbax left behind complains now
        return None, reason

    def _load(self, step: int, state: TrainState) -> tuple[TrainState, int]:
        path = self._folder / str(step)
        metadata = read_metadata(path)
        check_metadata(metadata, {}, path)
        refuse_changes(
            TrainConfig.from_json(metadata["config"]),
            self._config,
            allowed=self._allowed,
            run=str(self._folder.parent),
        )
        found = ocp.load_checkpointables(str(path), jax.tree.map(template, _checkpointables(state)))
        check_metadata(metadata, found, path)
        encoder, optimizer = found["encoder"], found["optimizer"]
        restored = TrainState(
            params=optimizer["params"],
            average=encoder["params"],
            statistics=encoder["statistics"],
            optimizer=optimizer["state"],
            step=optimizer["step"],
        )
        return restored, step

    def _set_aside(self, step: int) -> None:
        """Out of Orbax's sight, which would count it as the newest and never save that step
        again.
        """
        if jax.process_index() == 0:
            aside = self._folder / f"{step}.damaged"
            if aside.exists():
                aside.rmtree()
            (self._folder / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")

    def is_due(self, step: int) -> bool:
        """Returns whether the policy wants the state after step number `step`."""
        return self._restored().should_save(step)

    def save(self, step: int, state: TrainState) -> None:
        """Saves asynchronously, unless that step is saved already. `step` counts the steps done.

        Nothing else is needed to continue: seed and step decide a step's draws and its batch.
        """
        checkpointer = self._restored()
        if checkpointer.latest is None or checkpointer.latest.step != step:
            trees = _checkpointables(state)
            metadata = cast(Any, metadata_of(self._config, trees))
            with self._names_save_errors():
                checkpointer.save_checkpointables_async(
                    step, trees, force=True, custom_metadata=metadata
                )

    def _close(self) -> None:
        """Waits for the last save."""
        with self._names_save_errors():
            self._restored().close()

    @contextlib.contextmanager
    def _names_save_errors(self) -> Iterator[None]:
        """Orbax raises what the save before it ended with; TensorStore's answer to a full disk is a
        ValueError.
        """
        try:
            yield
        except (OSError, ValueError) as error:
            raise SaveError(
                f"{self._folder}: a checkpoint could not be written ({reason_of(error)})"
            ) from error

    def _restored(self) -> ocp.training.Checkpointer:
        if self._checkpointer is None:
            raise RuntimeError("call restore first")
        return self._checkpointer


def _checkpointables(state: TrainState) -> dict[str, Any]:
    return {
        "encoder": {"params": state.average, "statistics": state.statistics},
        "optimizer": {"state": state.optimizer, "step": state.step, "params": state.params},
    }
