"""Shapes and dtypes of every annotated function are checked while the tests run."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["PICJAX_CACHE"] = "off"  # programs of tests stay out of the user's cache
# Nearly all of the suite's time is compilation; the numbers stay float32 ones. The
# older code generator for fusions takes half of the newer one's time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
)

from jaxtyping import install_import_hook

install_import_hook("picjax", "beartype.beartype")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=2, help="kills in test_resume.py")


@pytest.fixture(autouse=True, scope="module")
def forget_compiled():
    """What a module compiled goes with it: the suite would hold 6 GB a process."""
    yield
    jax.clear_caches()
