"""Runs on the Hugging Face Hub: `picjax.push(run, "user/name")`, `hf://user/name`.

A repository holds `model.safetensors` (weights, and the config in its metadata), the
run's `config.json`, its last metrics and evaluation, and a model card written from them.
"""

import json
from pathlib import Path
from typing import Any

import jinja2

from picjax import checkpoints
from picjax.cli import UserError, require
from picjax.evaluation.report.tables import markdown_table
from picjax.export import write_weights
from picjax.files import write_text
from picjax.inputs import translates
from picjax.system import Config, image_shape

SCHEME = "hf://"
WEIGHTS = "model.safetensors"
CARD = Path(__file__).with_name("model_card.md")


def push(workdir: str | Path, repository: str, private: bool = False) -> str:
    """Upload a run's newest model to the Hub; returns the address.

    Args:
      workdir: the run's folder.
      repository: `user/name`, created if it does not exist. The token is the one of
        `hf auth login` or of `HF_TOKEN`.
      private: whether a new repository is private.

    Raises:
      UserError: if the folder is no workdir with a checkpoint, huggingface_hub is not
        installed, or the Hub refuses.
    """
    import tempfile

    hub: Any = require("huggingface_hub", "hub")
    check_name(repository)
    workdir = Path(workdir)
    config, variables, step = checkpoints.restore_variables(workdir)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder / WEIGHTS, config, variables, step)
        for file in ("config.json", "eval/metrics.json"):
            if (workdir / file).is_file():
                write_text(folder / file, (workdir / file).read_text())
        card = model_card(workdir, repository, config, step)
        write_text(folder / "README.md", card)
        try:
            api = hub.HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=f"picjax {config.system}, step {step}",
            )
        except (OSError, ValueError) as error:  # HfHubHTTPError is an OSError
            raise UserError(
                f"'{repository}' cannot be written ({first_line(error)}); log in by "
                "`hf auth login`, and use a repository of your own"
            ) from error
    return f"{SCHEME}{repository}"


def download(address: str) -> Path:
    """The weights file of `hf://user/name`, from the Hub's cache if it is current.

    Raises:
      UserError: if the repository or the file does not exist or cannot be read.
    """
    hub: Any = require("huggingface_hub", "hub")
    repository = address.removeprefix(SCHEME)
    check_name(repository)
    try:
        return Path(hub.hf_hub_download(repository, WEIGHTS))
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{address}' cannot be read ({first_line(error)}); use a repository that "
            "picjax.push wrote, and log in by `hf auth login` if it is private"
        ) from error


def check_name(repository: str) -> None:
    """Refuse what is not `user/name`.

    Raises:
      UserError: naming it.
    """
    parts = repository.split("/")
    if len(parts) != 2 or not all(parts):
        raise UserError(f"'{repository}' names no repository; write user/name")


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# ---- model card ----


def model_card(workdir: Path, repository: str, config: Config, step: int) -> str:
    """The README of a repository: what the model is, how it was trained and measured."""
    height, width = image_shape(config)
    protocol, table = evaluation(workdir / "eval" / "metrics.json")
    template = jinja2.Template(
        CARD.read_text(encoding="utf-8"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return template.render(
        name=repository.split("/")[1],
        repository=repository,
        config=config,
        config_json=config.to_json(indent=2),
        size=f"{height} x {width}",
        step=step,
        masks=", ".join(config.data.masks) or "none (pairs)",
        metrics=last_metrics(workdir / "metrics.jsonl"),
        protocol=protocol,
        table=table,
        translates=translates(config),
    )


def last_metrics(path: Path) -> dict[str, Any]:
    """The metrics of the last logged step, without timings."""
    if not path.is_file():
        return {}
    lines = path.read_text().splitlines()
    entry = json.loads(lines[-1]) if lines else {}
    timings = ("seconds", "images_per_second", "data_wait")
    return {name: value for name, value in entry.items() if name not in timings}


def evaluation(path: Path) -> tuple[str, str]:
    """The protocol of an evaluation in a sentence, and its numbers as a table."""
    from picjax.evaluation.report import page

    if not path.is_file():
        return "", ""
    content = json.loads(path.read_text())
    rows = [
        [f"{metric} ({region}, {statistic})", f"{x['value']:.4g}"]
        for metric, regions in content["results"].items()
        for region, statistics in regions.items()
        for statistic, x in statistics.items()
    ]
    return page.sentence(content["protocol"]), markdown_table(["metric", "value"], rows)
