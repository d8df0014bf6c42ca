"""Prints a Kubernetes job: launch/kubernetes.yaml, filled with a file of values.

python launch/kubernetes.py launch/values.yaml | kubectl apply -f -
"""

import json
import sys
from functools import partial
from pathlib import Path

import jinja2
import yaml

TEMPLATE = Path(__file__).with_name("kubernetes.yaml")


def render(values: Path) -> str:
    """The manifests; every value is written as JSON, which YAML contains."""
    as_json = partial(json.dumps, default=str)  # which refuses a value that is missing
    env = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=as_json)
    template = env.from_string(TEMPLATE.read_text())
    return template.render(yaml.safe_load(values.read_text()))


if __name__ == "__main__":
    print(render(Path(sys.argv[1])))
