"""Builds the wheel, installs it in a fresh environment and uses it without a checkout.

python tests/workers/check_wheel.py

Needs the package index; `make test-wheel` runs it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOAD = """
import sys
from pathlib import Path
import numpy as np
import picjax
assert Path(picjax.__file__).is_relative_to(sys.prefix), picjax.__file__
image = np.zeros((20, 30, 3), np.uint8)
completions = picjax.load("run").complete(image, "center", n=2)
assert completions.shape == (2, 20, 30, 3)
"""


def call(*words: str | Path, cwd: Path = ROOT) -> None:
    """Run a command; its failure is an error."""
    print(f"$ {' '.join(map(str, words))}", flush=True)
    outside = ("PYTHONPATH", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if name not in outside}
    subprocess.run([str(word) for word in words], check=True, cwd=cwd, env=env)


def build(folder: Path) -> Path:
    """Build the wheel into a folder and check its top-level packages."""
    source = folder / "source"  # a build in the repository would leave files there
    ignored = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source)
    (wheel,) = folder.glob("picjax-*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert packages == {"picjax"}, packages
    assert "picjax/configs/common.py" in names
    assert "picjax/configs.py" not in names
    return wheel


def main() -> None:
    """Build, install, train, complete and load."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        venv.create(folder / "env", with_pip=True)
        binaries = folder / "env" / "bin"
        call(binaries / "python", "-m", "pip", "install", "-q", wheel, cwd=folder)
        picjax = binaries / "picjax"
        call(picjax, "--help", cwd=folder)
        call(picjax, "train", "--config=pix2pix:tiny", "--workdir=run", cwd=folder)
        call(picjax, "data.export", "--workdir=run", "--num=2", cwd=folder)
        words = ("--image=run/held-out", "--mask=run/held-out-masks", "--num=2")
        call(picjax, "complete", "--workdir=run", *words, cwd=folder)
        call(binaries / "python", "-c", LOAD, cwd=folder)
    print("the wheel works without the repository")


if __name__ == "__main__":
    main()
