"""Saves checkpoints: the state, whose step is also the position in the data.

A step's folder gets its final name when its files and their checksums are complete, so
that a kill at any moment only loses the steps since the last save.
"""

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from picjax import checksums, files, lock
from picjax.buckets import as_os_error
from picjax.checkpoints import (
    COMMITTED,
    badness,
    describe_damage,
    load_step,
    removal,
    saved_steps,
    summary,
    without_checksums,
)
from picjax.checksums import Damaged
from picjax.cli import UserError, say
from picjax.system import State

# Files that Orbax writes when it commits a checkpoint, after all others.
COMMIT_FILES = ("_CHECKPOINT_METADATA", COMMITTED)
SAVE_ERRORS = (OSError, ValueError, RuntimeError)  # of files, tensorstore, and JAX
SMALL = 2**20  # bytes of a file that is read even if only sizes are compared


class Checkpoints:
    """The checkpoints of a run that trains, saved in the background; a context manager.

    It holds the lock of the workdir (`picjax.lock`). Damaged folders are renamed to
    `<step>.damaged`, since their steps are saved again.

    Args:
      workdir: the run's folder.
      keep: number of newest checkpoints to keep.
      best: a logged metric; the checkpoint where it was best (see `badness`) is kept as
        well. Empty: none.
      context: options of Orbax.

    Attributes:
      latest: the newest step that is completely saved; None if there is none.

    Raises:
      UserError: if another process trains in the workdir, or if there are checkpoints
        and all of them are damaged.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        keep: int,
        best: str,
        context: ocp.Context | None = None,
    ):
        self.workdir = epath.Path(workdir)
        self.folder = files.absolute(self.workdir / "checkpoints")
        self._lock: lock.Lock | None = None
        with contextlib.ExitStack() as stack:
            if jax.process_index() == 0:
                self._lock = stack.enter_context(lock.hold(self.workdir))
                set_damaged_aside(self.workdir)
            multihost_utils.sync_global_devices("picjax:checkpoints")
            self._orbax = self._open(keep, best, context or ocp.Context())
            self._stack = stack.pop_all()
        found = self._orbax.latest
        self.latest = None if found is None else found.step
        self._saving: tuple[int, Any] | None = None

    def _open(
        self, keep: int, best: str, context: ocp.Context
    ) -> ocp.training.Checkpointer:
        policies: Any = ocp.training.preservation_policies
        kept: list[Any] = [policies.LatestN(keep)]
        if best:
            kept.append(
                policies.BestN(
                    # A save without the metric, as after SIGTERM, is no candidate.
                    get_metric_fn=lambda metrics: badness(best, metrics),
                    reverse=True,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )

        def write_checksums() -> None:  # Orbax would call a method of a copy of `self`
            self._write_checksums()

        context.asynchronous.post_finalization_callback = write_checksums
        return ocp.training.Checkpointer(
            str(self.folder),
            context=context,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":  # noqa: PYI034 (as in picjax.log)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except UserError:
            if error is None:
                raise
        finally:
            with self._stack, contextlib.suppress(Exception):  # a failed save's, again
                self._orbax.close()

    @property
    def kept(self) -> str:
        """What a run that stops now leaves, as a part of a sentence."""
        if self.latest is None:
            return "no checkpoint exists yet"
        return f"checkpoint {self.latest} is kept"

    def restore(self, abstract: State) -> State | None:
        """Restore the newest state.

        Args:
          abstract: shapes, dtypes and shardings of the state.

        Returns:
          The state, or None if there is no checkpoint.

        Raises:
          UserError: if the checkpoint's arrays do not match `abstract`, or it has no
            checksums and cannot be read.
        """
        if self.latest is None:
            return None
        path = self.folder / str(self.latest)
        try:
            return load_step(path, abstract)
        except Damaged as error:
            raise UserError(
                f"{describe_damage(path, error)}; to resume from an older one, "
                f"{removal(path)}"
            ) from error

    def save(self, state: State, metrics: Mapping[str, float]) -> None:
        """Start saving a step in the background.

        Raises:
          UserError: if this or the previous save fails, or the workdir is no longer this
            run's.
        """
        self.wait()
        if self._lock is not None:
            self._lock.check()
        step = int(state.step)
        try:
            self._step = step
            with as_os_error(self.folder):
                response = self._orbax.save_checkpointables_async(
                    step, {"state": state}, force=True, metrics=dict(metrics)
                )
        except SAVE_ERRORS as error:
            raise self._failed(step, error) from error
        self._saving = (step, response)

    def poll(self) -> None:
        """Check the workdir and a save in the background, without waiting.

        Raises:
          UserError: if the save has failed, or the workdir is no longer this run's.
        """
        if self._lock is not None:
            self._lock.poll()
        if self._saving is not None and not self._orbax.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Wait until everything is saved.

        Raises:
          UserError: if a save has failed.
        """
        if self._saving is None:
            return
        (step, response), self._saving = self._saving, None
        try:
            with as_os_error(self.folder):
                response.result()
                if jax.process_index() == 0:
                    checksums.add(self.folder / str(step), COMMIT_FILES)
        except SAVE_ERRORS as error:
            raise self._failed(step, error) from error
        self.latest = step

    def _write_checksums(self) -> None:
        """Called by Orbax, of the first process, before the folder gets its name."""
        partial = sorted(self.folder.glob(f"{self._step}.orbax-checkpoint-tmp*"))
        folder = partial[0] if partial else self.folder / str(self._step)  # in a bucket
        checksums.write(folder, left_out=COMMIT_FILES)

    def _failed(self, step: int, error: Exception) -> UserError:
        return UserError(
            f"checkpoint {step} could not be saved in '{self.workdir}' "
            f"({summary(error)}), {self.kept}; free space or repair the folder, then give "
            "the same command again"
        )


def set_damaged_aside(workdir: epath.Path) -> None:
    """Rename damaged checkpoints, so that a run can save their steps again.

    Files are compared with their checksums down to the newest whole checkpoint, which
    will be restored; of older ones only the small files are.

    Raises:
      UserError: if all checkpoints are damaged; then nothing is renamed.
    """
    damaged: list[tuple[epath.Path, Damaged]] = []
    whole = False
    for step in reversed(saved_steps(workdir)):
        path = workdir / "checkpoints" / str(step)
        try:
            has_checksums = checksums.verify(path, largest=SMALL if whole else None)
            if not (has_checksums or whole):
                say(without_checksums(path))
            whole = True
        except Damaged as error:
            damaged.append((path, error))
    if damaged and not whole:
        raise UserError(
            f"{describe_damage(*damaged[0])} and no other is whole; restore it from a "
            f"copy, or {removal(workdir / 'checkpoints')} to train from the beginning"
        )
    for path, error in damaged:
        aside = path.with_name(f"{path.name}.damaged")
        if aside.exists():
            aside.rmtree()
        path.rename(aside)
        say(f"{describe_damage(path, error)}; it is not used: {removal(aside)}")
