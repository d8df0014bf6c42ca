"""The compilation cache: where it lies, how it is switched off, and that it is used."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from picjax import cache


def setting(name):
    return getattr(jax.config, f"jax_compilation_cache_{name}")


@pytest.fixture
def settings():
    """Restores JAX's settings of the cache."""
    names = ("compilation_cache_dir", "compilation_cache_max_size")
    names += ("persistent_cache_min_compile_time_secs",)
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_the_suite_does_not_write_to_the_users_cache(settings):
    assert cache.directory() is None
    cache.enable()
    assert setting("dir") is None


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("PICJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "picjax" / f"xla-{cache.machine()}"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / f".cache/picjax/xla-{cache.machine()}"
    monkeypatch.setenv("PICJAX_CACHE", str(tmp_path / "own"))
    assert cache.directory() == tmp_path / f"own/xla-{cache.machine()}"


def test_programs_are_stored_with_a_size_limit(monkeypatch, tmp_path, settings):
    monkeypatch.setenv("PICJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "MIN_SECONDS", 0.0)
    cache.enable()
    assert setting("max_size") == cache.MAX_BYTES
    jax.jit(lambda x: jnp.sin(x) + 41)(jnp.ones(3)).block_until_ready()
    assert list(tmp_path.rglob("*-cache"))


def test_jaxs_own_setting_takes_precedence(monkeypatch, tmp_path, settings):
    monkeypatch.setenv("PICJAX_CACHE", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    cache.enable()
    assert setting("dir") == str(tmp_path / "theirs")


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch, tmp_path, settings):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PICJAX_CACHE", str(tmp_path / "file"))
    cache.enable()
    assert setting("dir") is None
