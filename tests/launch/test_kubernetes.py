"""launch/kubernetes.yaml: what Kubernetes' schemas accept, and what exits do."""

import importlib.util
from typing import Any

import jinja2
import kubernetes_validate
import pytest
import yaml
from helpers.processes import ROOT

VERSION = "1.31"  # the first with a stable podFailurePolicy
spec: Any = importlib.util.spec_from_file_location("k8s", ROOT / "launch/kubernetes.py")
kubernetes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kubernetes)
VALUES = yaml.safe_load((ROOT / "launch/values.yaml").read_text())


@pytest.fixture
def render(tmp_path):
    def render(**changes):
        path = tmp_path / "values.yaml"
        path.write_text(yaml.safe_dump(VALUES | changes))
        manifests = list(yaml.safe_load_all(kubernetes.render(path)))
        for manifest in manifests:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        return manifests

    return render


def test_the_manifests_are_valid_and_hold_the_values_as_they_are(render):
    args = ["--config.data.masks=('center', \"half\")", "a: {{ b }} # c"]
    tpu = {"cloud.google.com/gke-tpu-topology": "4x4"}
    service, job = render(module="picjax.eval", args=args, processes=4, nodes=tpu)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "picjax.eval"]
    assert container["args"] == args and pod["nodeSelector"] == tpu
    assert container["resources"]["limits"] == VALUES["resources"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    assert service["metadata"]["name"] == pod["subdomain"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_an_exit_fails_the_job_or_restarts_the_pod(render):
    _, job = render(restarts=3, processes=2)
    actions = {
        code: rule["action"]
        for rule in job["spec"]["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", ["disruption"])
    }
    assert actions == {2: "FailJob", 75: "Count", "disruption": "Ignore"}
    assert job["spec"]["backoffLimit"] == 6
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_a_missing_value_is_an_error(tmp_path):
    path = tmp_path / "values.yaml"
    path.write_text("name: picjax\n")
    with pytest.raises(jinja2.UndefinedError, match="'processes' is undefined"):
        kubernetes.render(path)
