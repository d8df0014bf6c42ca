"""The package of docs/extending.md: its method trains on its data and completes."""

import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.configs import load_config
from helpers.pictures import half_mask, picture

import picjax
from picjax import flags, methods, plugins, train
from picjax.cli import UserError
from picjax.data import sources

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
# ml_collections loads config files by a method that importlib will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The page's files in a folder on the path, with the metadata of an installation."""
    folder = tmp_path_factory.mktemp("package")
    blocks = re.findall(
        r"```(?:python|toml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    for name, code in blocks:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / "blurs-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blurs\nVersion: 0.1\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {x}" for name, x in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        importlib.invalidate_caches()
        yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "blurs"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def words(package):
    words = [
        f"--config={package / 'blur.py'}",
        "--config.steps=8",
        "--config.samples=2",
    ]
    words += ["--config.log_every=1", "--config.sample_every=0"]
    return [*words, "--config.opt.lr=0.02"]


@pytest.fixture(scope="module")
def workdir(words, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train.main([*words, f"--workdir={workdir}"])
    return workdir


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["l1"] for line in lines]


def test_the_example_trains_and_completes(workdir):
    values = losses(workdir)
    assert len(values) == 8 and values[-1] < values[0]
    image, known = picture(0, 32, 32), half_mask(32, 32)
    drawn = picjax.load(workdir).complete(image, known, n=2)
    for sample in drawn:
        np.testing.assert_array_equal(sample[known == 1], image[known == 1])
    assert (drawn[0] != drawn[1]).any()


def test_a_run_starts_from_the_weights_of_another(words, workdir, tmp_path, capfd):
    command = [*words, f"--workdir={tmp_path}", f"--init-from={workdir}"]
    partial = tmp_path / "checkpoints/4.orbax-checkpoint-tmp"
    partial.mkdir(parents=True)  # of a run that was killed in its first save
    train.main(command)
    shown = capfd.readouterr().err
    assert f"initial weights from step 8 of {workdir}" in shown
    assert "  net: 2 of 2 arrays\n" in shown
    assert losses(tmp_path)[0] < losses(workdir)[0]
    train.main(
        [*command[:-1], "--init-from=nowhere"]
    )  # resumes, so has its own weights
    assert "resuming from step 8" in capfd.readouterr().err
    with pytest.raises(UserError, match="'nowhere' is not a workdir"):
        train.main([*words, f"--workdir={tmp_path / 'new'}", "--init-from=nowhere"])
    assert not (tmp_path / "new").exists()


def test_held_out_images_of_the_example_differ_from_its_training_images(package):
    config, _ = flags.parse([f"--config={package / 'blur.py'}"])
    rng = np.random.default_rng(0)
    makers = (sources.training, sources.evaluation)
    first, held_out = (make(config.data, (32, 32)).read(0, rng) for make in makers)
    assert first["name"] == "gradient0" and held_out["name"] == "gradient10000"


def test_unknown_names_list_those_of_packages_too(package):
    config = load_config("picmm", "tiny")
    config.system = "blurr"
    with pytest.raises(UserError, match="none of inade, .*, blur; did you mean 'blur'"):
        methods.make(config)
    config.data.name = "gradient"
    with pytest.raises(UserError, match="gradients; did you mean 'gradients'"):
        sources.training(config.data, (32, 32))


def test_a_package_that_cannot_be_imported_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "blurs.method", None)
    with pytest.raises(UserError, match="blurs.method:Blur.* cannot be imported"):
        plugins.load(plugins.METHODS, "blur")
