"""A workdir has one trainer: who holds the lock, who lost it, and which one is stale."""

import json
import socket
import time
from types import SimpleNamespace

import psutil
import pytest

from picjax import lock
from picjax.cli import UserError


def test_a_second_trainer_is_refused_and_told_who_trains(tmp_path):
    with lock.hold(tmp_path):
        holder = f"process {psutil.Process().pid} on {socket.gethostname()}"
        with pytest.raises(
            UserError, match=f"in use by {holder} since .*; wait for it"
        ):
            lock.hold(tmp_path).__enter__()
    with lock.hold(tmp_path):  # released
        pass
    assert not list(tmp_path.iterdir())


def holder(tmp_path, **changes):
    """A lock that another process left."""
    path = tmp_path / lock.FILE
    path.write_text(json.dumps(lock.Lock(tmp_path).content | changes))
    return path


@pytest.mark.parametrize(
    "changes", [{"process": 2**22 + 1}, {"process_start": 1.0}], ids=["dead", "reused"]
)
def test_the_lock_of_a_dead_process_is_taken(tmp_path, changes):
    holder(tmp_path, **changes)
    with lock.hold(tmp_path) as held:
        held.check()


def test_a_damaged_lock_is_none(tmp_path):
    (tmp_path / lock.FILE).write_bytes(b"\0" * 40)
    with lock.hold(tmp_path) as held:
        held.check()


def test_on_another_host_the_counter_decides(tmp_path, monkeypatch, capsys):
    path = holder(tmp_path, host="another")
    waited = []
    clock = SimpleNamespace(sleep=waited.append, strftime=time.strftime)
    monkeypatch.setattr(lock, "time", clock)
    with lock.hold(tmp_path) as held:  # it stood still
        held.check()
    assert (
        len(waited) == lock.PATIENCE and "on another since" in capsys.readouterr().err
    )

    path = holder(tmp_path, host="another")
    beats = json.dumps(json.loads(path.read_text()) | {"beat": 8})
    monkeypatch.setattr(clock, "sleep", lambda _: path.write_text(beats))
    with pytest.raises(UserError, match="on another since"):
        lock.hold(tmp_path).__enter__()
    assert path.read_text() == beats

    monkeypatch.setattr(clock, "sleep", lambda _: path.unlink())
    with lock.hold(tmp_path) as held:  # it was released while waiting
        held.check()


def test_a_lost_lock_is_noticed(tmp_path):
    workdir = tmp_path / "run"
    with lock.hold(workdir) as held:
        path = holder(workdir, process=1)
        with pytest.raises(UserError, match="in use by process 1 on .* has stopped"):
            held.check()
        path.unlink()
        with pytest.raises(UserError, match="train.lock' was removed"):
            held.check()
        workdir.rmdir()
        with pytest.raises(UserError, match="run' was removed while training"):
            held.check()
    assert not workdir.exists()


def test_a_bucket_is_asked_once_per_beat(tmp_path, monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], strftime=time.strftime)
    monkeypatch.setattr(lock, "is_remote", lambda path: True)
    with lock.hold(tmp_path) as held:
        monkeypatch.setattr(lock, "time", clock)
        held.poll()
        holder(tmp_path, process=1)
        held.poll()
        now[0] += lock.BEAT
        with pytest.raises(UserError, match="in use by process 1 on .* has stopped"):
            held.poll()
