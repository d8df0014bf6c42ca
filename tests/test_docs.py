"""What the documentation promises: its example runs, its commands and pages exist."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch
from ml_collections import ConfigDict

from picjax import methods
from picjax.log import MEANINGS
from picjax.system import inference_variables

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("launch/*.md")]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}


def source_files():
    folders = ("picjax", "configs", "bench", "tests", "launch", "docs")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    return [path for path in files if path.suffix in (".py", ".md", ".sh")] + PAGES


# ---- the worked example of CONTRIBUTING.md ----


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The example's files in a folder that `picjax.methods` is searched in, too."""
    folder = tmp_path_factory.mktemp("example")
    blocks = re.findall(
        r"```python\n# (\S+)\n(.*?)```", TEXTS["CONTRIBUTING.md"], re.DOTALL
    )
    for name, code in blocks:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        extra = str(folder / "picjax" / "methods")
        patch.setattr(methods, "__path__", [*methods.__path__, extra])
        yield folder
        for name in [n for n in sys.modules if "pixel_noise" in n]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def system(example):
    module = importlib.import_module("picjax.methods.pixel_noise.system")
    opt = {"lr": 1e-2, "decay": 0.0, "b1": 0.9, "b2": 0.999, "accumulate": 1}
    model = {"features": 4, "dtype": "float32"}
    config = {"steps": 10, "opt": opt, "model": model}
    return module.PixelNoise.from_config(ConfigDict(config))


def test_the_examples_loss_falls(system):
    batch = make_batch(16)
    state = jax.jit(system.init)(batch, jax.random.key(0))
    step = jax.jit(system.step)
    losses = []
    for i in range(10):
        state, metrics = step(state, batch, jax.random.key(i))
        losses.append(float(metrics["nll"]))
    assert int(state.step) == 10
    assert losses[-1] < losses[0]


def test_the_examples_completions_keep_known_pixels_and_differ(system):
    batch = make_batch(16)
    variables = inference_variables(system.init(batch, jax.random.key(0)))
    images = system.complete(variables, batch, jax.random.key(1), 2)
    known = jnp.broadcast_to(batch["mask"][:, None] > 0.5, images.shape)
    truth = jnp.broadcast_to(batch["image"][:, None], images.shape)
    np.testing.assert_array_equal(images[known], truth[known])
    assert float(jnp.abs(images[:, 0] - images[:, 1]).max()) > 0.1
    nll = system.evaluate(variables, batch, jax.random.key(1))["nll"]
    assert nll.shape == (2,)


def test_the_examples_config_is_complete(example):
    path = example / "configs" / "pixel_noise.py"
    spec = importlib.util.spec_from_file_location("pixel_noise", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("tiny")
    system = importlib.import_module("picjax.methods.pixel_noise.system")
    built = system.PixelNoise.from_config(config)
    assert built.net.features == 4
    assert module.get_config().image_size == 64


# ---- commands ----


@pytest.mark.parametrize("page", sorted(TEXTS))
def test_modules_of_commands_exist(page):
    for module in re.findall(r"python -m ((?:picjax|bench)[\w.]*\w)", TEXTS[page]):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or path.is_dir(), module


@pytest.mark.parametrize("page", sorted(TEXTS))
def test_variants_of_commands_exist(page):
    named = re.findall(r"configs/(\w+)\.py:([a-z][\w-]*)", TEXTS[page])
    for method, variant in set(named) - {("pixel_noise", "tiny")}:
        assert load_config(method, variant).system == method


@pytest.mark.parametrize("page", sorted(TEXTS))
def test_make_targets_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", TEXTS[page], re.MULTILINE):
        assert target in targets, target


# ---- pages ----


def test_pages_named_in_the_code_exist():
    for path in source_files():
        for page in re.findall(r"docs/[\w/-]+\.md", path.read_text()):
            assert (ROOT / page).is_file(), f"{path.relative_to(ROOT)} names {page}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_root_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXTS[page]):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in ROOT.glob("docs/*.md"):
        assert re.search(rf"\b{path.name}\b", navigation), path.name


def test_functions_named_in_the_readings_exist():
    """The tables of docs/code.md, whose rows are functions that a value passes."""
    places = ["system", "methods.picmm.system", "methods.vae_gan", "model"]
    owners = [importlib.import_module(f"picjax.{name}") for name in places]
    named = re.findall(r"^\| `([\w.]+)`", TEXTS["docs/code.md"], re.MULTILINE)
    assert len(named) > 15
    for name in named:
        owner, function = name.rsplit(".", 1)
        if owner[0].isupper():
            (value,) = {getattr(m, owner) for m in owners if hasattr(m, owner)}
        else:
            value = importlib.import_module(f"picjax.{owner}")
        assert hasattr(value, function), name


@pytest.mark.parametrize("name", methods.NAMES)
def test_every_logged_name_is_explained_where_workdirs_are(name):
    module = importlib.import_module(f"picjax.methods.{name}.system")
    meanings = getattr(module, methods.CLASSES[name]).meanings
    assert meanings
    for metric, meaning in {**meanings, **MEANINGS}.items():
        assert f"| `{metric}` | {meaning} |" in TEXTS["docs/workdir.md"], metric
