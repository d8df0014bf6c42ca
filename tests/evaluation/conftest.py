"""Fixtures of the tests of evaluation."""

import pytest
from helpers.evaluation import held_out
from helpers.fake_system import make_model

from picjax.evaluation import examples, tasks
from picjax.evaluation.metrics import weights


@pytest.fixture
def model(monkeypatch, tmp_path):
    """A model without networks that every workdir holds, and its held-out images."""
    monkeypatch.chdir(tmp_path)
    fake = make_model()
    monkeypatch.setattr(tasks, "load", lambda *_: fake)
    monkeypatch.setattr(examples.pipeline, "eval_batches", held_out)
    return fake


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No weights on disk, and no network to download them from."""

    def fail(*_):
        raise OSError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    monkeypatch.setattr(weights, "fetch", fail)
