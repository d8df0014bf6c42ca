"""The walks of docs/guides.md, from beginning to end; the second is the notebook."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import picture
from PIL import Image

from picjax import __main__ as console

PAGE = (Path(__file__).parents[1] / "docs" / "guides.md").read_text()
# ml_collections loads config files by a method that importlib will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def walk(number: int, monkeypatch, changes=None) -> None:
    """Run the commands of a walk, with other words for some."""
    (block,) = re.findall(rf"```bash\n# walk {number}\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[0] == "picjax"
        for word, other in (changes or {}).items():
            words = [x for w in words for x in (other if w == word else [w])]
        monkeypatch.setattr("sys.argv", words)
        console.dispatch()


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_a_folder_of_photographs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i in range(24):
        save(Path(f"photos/{i}.jpg"), picture(i, 40, 48))
    save(Path("new.jpg"), picture(99, 50, 40))
    tiny = {"--config=picmm:photos": ["--config=pix2pix:tiny"], "--num=6": ["--num=2"]}
    walk(1, monkeypatch, tiny)
    assert len(list(Path("completed").glob("new_out_*.png"))) == 2
    assert Path("curves.png").stat().st_size > 1000
    report = Path("measured/report.html").read_text()
    assert "<polyline" in report and "held-out" in report
    assert "2 completions of 1 image" in capsys.readouterr().out


def test_somebody_elses_completions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    for i in range(3):
        truth = picture(i, 32, 32)
        save(Path(f"truth/{i}.png"), truth)
        save(Path(f"masks/{i}.png"), mask)
        for j in range(2):
            noise = np.random.default_rng(j).integers(0, 30, truth.shape)
            for name, scale in (("ours", 1), ("theirs", 3)):
                noisy = (truth + scale * noise).clip(0, 255).astype(np.uint8)
                save(Path(f"{name}/{i}_{j}.png"), noisy)
    walk(3, monkeypatch)
    table = Path("table.tex").read_text()
    rows = [line for line in table.splitlines() if line.startswith("l1, hole, mean")]
    (ours, theirs) = rows[0].removesuffix(r" \\").split(" & ")[1:]
    assert "textbf" in ours and "textbf" not in theirs
    assert 'class="best"' in Path("both/report.html").read_text()
