"""The command line: errors in one line, help, networks without weights, papers."""

import pytest
from helpers.evaluation import evaluate, held_out, read_metrics, write_folders
from helpers.fake_system import make_model

from picjax import eval as module
from picjax.cli import UserError, run
from picjax.evaluation import examples, tasks


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--metrics=psnrr", "did you mean 'psnr'"),
        ("--metrics=zzz", "none of l1"),
        ("--metrics=", "empty"),
        ("--num=0", "--num"),
        ("--images=-1", "--images"),
        ("--fake=real", "exclude each other"),
        ("--raw --invert-mask", "--invert-mask goes with --fake"),
        ("--pattern={stem}", "--fake"),
        ("--metrics=paper:picnett", "did you mean 'paper:picnet'"),
        ("--manifest=nowhere", "cannot be read"),
        ("--checkpoint=worst", "none of newest, best"),
        ("--metrics=l1,posterior", "scenes"),
        ("--metrics=likelihood", "pixelcnn"),
        ("--stats=x.npz", "--stats goes with --metrics=fid"),
        ("--feature=net=vgg --metrics=l1", "--feature is of metrics with networks"),
        ("--feature=net=vgg16 --metrics=lpips", "--feature net 'vgg16'"),
        ("--speed=3", "--speed"),
    ],
)
def test_bad_words_are_one_line(words, what, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tasks, "load", lambda *_: make_model())
    monkeypatch.setattr(module, "evaluate", lambda *_: pytest.fail("not refused"))
    with pytest.raises(SystemExit) as caught:
        run(lambda: module.main([f"--workdir={tmp_path}", *words.split()]))
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and what in error


def test_help_fits_a_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        evaluate("--help")
    printed = capsys.readouterr().out
    assert "example: python -m picjax.eval" in printed
    assert len(printed.splitlines()) <= 30


def test_without_weights_the_others_are_measured(tmp_path, offline, capsys):
    words = write_folders(tmp_path, images=4)[:-1]
    evaluate(*words, "--metrics=all")
    content = read_metrics(tmp_path / "fake/eval")
    expected = {"l1", "psnr", "ssim", "tv", "diversity", "seam"}
    assert set(content["results"]) == expected
    left_out = content["protocol"]["left_out"]
    assert (
        "no weights pt_inception" in left_out["fid"]
        and "two blocks" in left_out["niqe"]
    )
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "Left out" in x]
    assert "fid, kid, pr (no weights pt_inception" in line
    assert "is (needs 10 images or more)" in line and "2,000 images" in left_out["ids"]
    with pytest.raises(UserError, match="--metrics is needs 10 images"):
        evaluate(*words, "--metrics=l1,is")
    with pytest.raises(UserError, match="cannot be fetched"):
        evaluate(*words, "--metrics=l1,fid")
    with pytest.raises(UserError, match="none of pipeline, net"):
        evaluate(*words, "--metrics=lpips", "--feature=nett=vgg")
    with pytest.raises(UserError, match="holds no statistics"):
        evaluate(*words, "--metrics=fid", "--allow-random-features", "--stats=no.npz")


def test_a_papers_protocol_says_what_is_not_its_own(tmp_path, model, capsys):
    evaluate(
        "--workdir=run", "--metrics=paper:halfimage", "--images=2", "--out", tmp_path
    )
    content = read_metrics(tmp_path)
    assert content["protocol"]["masks"] == "top" and content["protocol"]["num"] == 1
    assert "2 images, not 50000" in content["protocol"]["unlike_the_paper"]
    assert "without likelihood" in content["protocol"]["unlike_the_paper"]
    assert set(content["results"]["l1"]["hole"]) == {"first"}
    assert "2 images, not 50000" in capsys.readouterr().out


def test_a_papers_masks_are_not_for_pairs(tmp_path, monkeypatch):
    def pairs(*args):
        for batch in held_out(*args):
            yield batch | {"condition": batch["image"], "mask": 0 * batch["mask"]}

    monkeypatch.setattr(examples.pipeline, "eval_batches", pairs)
    monkeypatch.setattr(tasks, "load", lambda *_: make_model(data="aligned"))
    words = ("--workdir", tmp_path, "--images=1")
    evaluate(*words, "--metrics=paper:halfimage")
    protocol = read_metrics(tmp_path / "eval")["protocol"]
    assert protocol["data"]["masks"] == []
    with pytest.raises(UserError, match="leave the mask out"):
        evaluate(*words, "--mask=top")
