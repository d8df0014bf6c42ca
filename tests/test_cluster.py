"""Several processes share the work of a command and write one result."""

import json
import os

from helpers.pictures import picture
from helpers.processes import ROOT, cluster, finish, start_worker
from PIL import Image


def run_together(folder, count):
    """The standard error of each of `count` processes of cluster_worker."""
    path = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    workers = [
        start_worker("cluster_worker", str(folder), env=path | env)
        for env in cluster(count)
    ]
    return [finish(worker) for worker in workers]


def files(folder):
    """Name and content of every file; the folder's own name is removed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in paths
    }
    return {
        name: data.replace(str(folder).encode(), b"") for name, data in contents.items()
    }


def test_two_processes_pack_complete_and_evaluate_like_one(tmp_path):
    results = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        (folder / "images").mkdir(parents=True)
        for i in range(5):
            Image.fromarray(picture(i, 32, 32)).save(folder / f"images/{i}.png")
        (folder / "config.json").write_text(
            json.dumps({"config": {"system": "picmm", "image_size": 32}})
        )
        errors = run_together(folder, count)
        results.append(files(folder))
    one, two = results
    assert "process 2 of 2 has drawn the completions of 4 images" in errors[1]
    assert one.keys() == two.keys() and "eval/metrics.json" in one
    assert [name for name in one if "packed" in name] == [
        *(f"packed/images-0000{i}.array_record" for i in range(3)),
        "packed/manifest.json",
    ]
    assert sum("completions/" in name for name in one) == 5 * 5
    differing = {name for name in one if one[name] != two[name]}
    assert differing <= {"eval/report.html", "eval/report.md"}  # as wide as the name
