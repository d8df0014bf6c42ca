"""Damaged checkpoints are named and replaced by the newest whole one, never used."""

import errno
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config

from picjax import checkpoints, checksums, saving
from picjax.checkpoints import restore_variables
from picjax.cli import UserError
from picjax.system import State

CONFIG = load_config("pix2pix", "tiny")
DAMAGES = ("deleted", "empty", "truncated", "flipped")


def state(step: int) -> State:
    params = {"net": {"w": jnp.arange(5000.0) + step, "b": jnp.float32(step)}}
    return State(jnp.int32(step), params, {}, {"adam": {"mu": jnp.ones(3)}}, {})


ABSTRACT = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0)
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with the checkpoints 1 and 2."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints.write_config(workdir, CONFIG)
    with saving.Checkpoints(workdir, 3, "") as run:
        for step in (1, 2):
            run.save(state(step), {"loss": 1.0 / step})
    return workdir


@pytest.fixture
def workdir(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "abstract_state", lambda config: ABSTRACT)
    return shutil.copytree(saved, tmp_path / "run")


def damage(path, kind):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if kind == "deleted":
        path.unlink()
        return
    if kind == "empty":
        content.clear()
    elif kind == "truncated":
        del content[middle:]
    else:
        content[middle] ^= 1
    path.write_bytes(content)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def restored_step(workdir, checkpoint: int | str = "newest"):
    """The step that is restored, after a look at its values."""
    _, variables, step = restore_variables(workdir, checkpoint)
    expected = {"params": state(step).params, "stats": {}}
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    return step


def one_line(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_whole_checkpoint_is_restored_without_a_word(workdir, capsys):
    assert restored_step(workdir) == 2 and restored_step(workdir, 1) == 1
    with saving.Checkpoints(workdir, 3, "") as run:
        jax.tree.map(np.testing.assert_array_equal, run.restore(ABSTRACT), state(2))
    assert not capsys.readouterr().err


def test_a_relative_workdir_is_restored(workdir, monkeypatch):
    monkeypatch.chdir(workdir.parent)
    assert restore_variables(Path(workdir.name))[2] == 2


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damage_to_every_file_is_named(workdir, kind):
    newest = workdir / "checkpoints/2"
    whole = shutil.copytree(newest, workdir / "copy")
    names = [path.relative_to(newest).as_posix() for path in files(newest)]
    assert len(names) > 10 and checksums.FILE in names
    if kind == "deleted":
        names.remove(checksums.FILE)
    for name in names:
        damage(newest / name, kind)
        with pytest.raises(UserError, match=f"checkpoint 2 in .* is damaged .*{name}"):
            restore_variables(workdir, 2)
        shutil.copy(whole / name, newest / name)


def test_the_one_before_a_damaged_one_is_used(workdir, capsys):
    newest = workdir / "checkpoints/2"
    damage(next((newest / "state/ocdbt.process_0/d").iterdir()), "flipped")
    assert restored_step(workdir) == 1
    line = one_line(capsys)
    assert "step 1 is used instead" in line and f"rm -r {newest}" in line


def test_without_checksums_a_checkpoint_is_used_as_far_as_it_can_be_read(
    workdir, capsys
):
    newest = workdir / "checkpoints/2"
    (newest / checksums.FILE).unlink()
    assert restored_step(workdir) == 2
    assert "without a check" in one_line(capsys)
    damage(newest / "state/_METADATA", "truncated")
    assert restored_step(workdir) == 1
    assert "checkpoint 2 in" in one_line(capsys)
    with (
        saving.Checkpoints(workdir, 3, "") as run,
        pytest.raises(
            UserError, match="checkpoint 2 in .* to resume from an older one"
        ),
    ):
        run.restore(ABSTRACT)


def test_an_empty_folder_is_no_checkpoint(workdir, capsys):
    (workdir / "checkpoints/99999").mkdir()
    assert restored_step(workdir) == 2
    assert "checkpoint 99999" in one_line(capsys)


def test_training_sets_the_damaged_aside_and_saves_the_step_again(workdir, capsys):
    damage(workdir / "checkpoints/2/state/_METADATA", "truncated")
    (workdir / "checkpoints/3").mkdir()
    with saving.Checkpoints(workdir, 3, "") as run:
        assert run.latest == 1
        restored = run.restore(ABSTRACT)
        jax.tree.map(np.testing.assert_array_equal, restored, state(1))
        run.save(state(2), {})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "it is empty" in lines[0] and "_METADATA" in lines[1]
    assert (workdir / "checkpoints/2.damaged").is_dir()
    assert restored_step(workdir) == 2


def test_without_a_whole_checkpoint_nothing_is_restored_or_renamed(workdir):
    for step in (1, 2):
        damage(files(workdir / f"checkpoints/{step}/state/d")[0], "flipped")
    with pytest.raises(UserError, match="checkpoint 2 .* and no other is whole"):
        saving.Checkpoints(workdir, 3, "")
    with pytest.raises(UserError, match="checkpoint 1 .* damaged"):
        restore_variables(workdir)
    assert checkpoints.saved_steps(workdir) == [1, 2]


def test_a_missing_step_names_those_that_exist(workdir):
    with pytest.raises(UserError, match="has no checkpoint 7; take one of 1, 2"):
        restore_variables(workdir, 7)
    with pytest.raises(UserError, match="'newer' is none of newest, best, a step"):
        restore_variables(workdir, "newer")


def test_the_best_of_the_whole_ones_is_restored(workdir, capsys):
    content = json.loads((workdir / "config.json").read_text())
    content["config"]["best"] = "loss"
    (workdir / "config.json").write_text(json.dumps(content))
    assert restored_step(workdir, "best") == 2  # the loss is lower
    damage(workdir / "checkpoints/2/state/_METADATA", "flipped")
    assert restored_step(workdir, "best") == 1
    assert "step 1 is used instead" in one_line(capsys)


def test_a_save_that_fails_is_reported_with_what_is_kept(workdir, monkeypatch, capsys):
    """The full disk is met in the background; the next poll reports it, once."""

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = saving.Checkpoints(workdir, 3, "")
    monkeypatch.setattr(checksums, "write", fail)
    run.save(state(3), {})
    message = r"checkpoint 3 could not be saved .*No space left.*checkpoint 2 is kept"
    with pytest.raises(UserError, match=message), run:
        while True:
            run.poll()
    assert not capsys.readouterr().err
    assert restored_step(workdir) == 2


def test_a_second_trainer_is_refused_before_it_touches_anything(workdir):
    (workdir / "checkpoints/3.orbax-checkpoint-tmp").mkdir()
    with saving.Checkpoints(workdir, 3, ""):
        (workdir / "checkpoints/4.orbax-checkpoint-tmp").mkdir()
        with pytest.raises(UserError, match="is in use by process"):
            saving.Checkpoints(workdir, 3, "")
        assert (workdir / "checkpoints/4.orbax-checkpoint-tmp").exists()
    assert not (workdir / "train.lock").exists()


def test_a_removed_workdir_stops_the_run_at_the_next_step(workdir):
    with (
        pytest.raises(UserError, match="was removed while training"),
        saving.Checkpoints(workdir, 3, "") as run,
    ):
        run.poll()
        shutil.rmtree(workdir)
        run.poll()
