"""JAX's persistent compilation cache: a second start compiles nothing again.

It lies in `~/.cache/picjax` (`$XDG_CACHE_HOME/picjax`), at most `MAX_BYTES` large, beside
the compiled plans of `picjax.aot`.
`PICJAX_CACHE=DIR` moves it, `PICJAX_CACHE=off` switches it off; JAX's own settings, such
as `JAX_COMPILATION_CACHE_DIR`, take precedence.
"""

import os
import platform
import zlib
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

MAX_BYTES = 2 * 2**30
MIN_SECONDS = 0.3  # programs that compile faster are not stored


def enable() -> None:
    """Use the cache, unless it is switched off, configured, or cannot be written."""
    folder = directory()
    if folder is None or jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    # What was compiled before, as in a notebook, has decided that there is no cache.
    compilation_cache.reset_cache()


def directory() -> Path | None:
    """The folder of this machine's programs; None if the cache is switched off."""
    folder = home()
    return folder and folder / f"xla-{machine()}"


def home() -> Path | None:
    """The folder of all that is cached; None if the cache is switched off."""
    chosen = os.environ.get("PICJAX_CACHE", "")
    if chosen.lower() in ("off", "0"):
        return None
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen or Path(user) / "picjax")


def machine() -> str:
    """Names the CPU's instruction set, which compiled programs depend on.

    A home folder may be shared by different machines.
    """
    features = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        features = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"
