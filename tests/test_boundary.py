"""What the user can fix is one line and exit 2, whatever raised it."""

import errno
import io
import os
import re
import sys
from functools import partial

import pytest
from helpers.fake_system import make_model
from helpers.pictures import picture
from PIL import Image

from picjax import cli, complete, files, memory, train
from picjax import eval as evaluation
from picjax.cli import UserError
from picjax.data.listing import list_data
from picjax.data.shards import open_shards
from picjax.evaluation.report.tables import escape
from picjax.log import progress_bar
from picjax.model import load

TINY = "--config=pix2pix:tiny"
COMPLETE = ("--workdir=x", "--image=a.png", "--mask=center")


def exit_of(error: BaseException, capsys) -> str:
    """The line that an error becomes."""

    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("picjax: ") and captured.err.count("\n") == 1
    assert "; " in captured.err
    return captured.err


@pytest.mark.parametrize(
    "name", ["ENOSPC", "EACCES", "ENAMETOOLONG", "ENOTDIR", "EROFS", "EIO", "EDQUOT"]
)
def test_errors_of_the_system(name, capsys):
    code = getattr(errno, name)
    line = exit_of(OSError(code, os.strerror(code), "/x/[red]y"), capsys)
    assert "'/x/[red]y' cannot be used" in line and os.strerror(code) in line


def test_other_errors_of_the_user(capsys):
    class JaxRuntimeError(RuntimeError):
        pass

    assert "memory" in exit_of(MemoryError(), capsys)
    assert "memory" in exit_of(JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB"), capsys)
    assert "UTF-8" in exit_of(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), capsys)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    ("call", "line"),
    [
        (partial(train.main, [TINY, "--workdir=s3://b/x"]), "--workdir 's3://b/x' is"),
        (partial(train.main, [TINY, "--workdir=gs://b/x"]), "'picjax[gcs]'"),
        (partial(complete.main, [*COMPLETE, "--out=s3://b/x"]), "--out 's3://b/x' is"),
        (
            partial(complete.main, ["--image=gs://b/x", "--workdir=x"]),
            "--image 'gs://b/x' is in a bucket, which this option cannot read",
        ),
        (partial(load, "s3://b/x"), "'s3://b/x' is neither a path nor in a bucket"),
        (partial(list_data, "s3://b/x", "config.data.path"), "config.data.path 's3:"),
        (partial(open_shards, "gs://b/x", "config.data.path"), "'picjax[gcs]'"),
    ],
)
def test_buckets_that_cannot_be_used_are_refused(call, line, tmp_path, monkeypatch):
    """Instead of becoming local folders."""
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=re.escape(line)):
        call()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_defects_keep_their_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main)


def test_a_name_is_shown_and_not_obeyed(capsys, monkeypatch):
    """Escape sequences, lines and bytes that are no UTF-8, on a strict terminal."""
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(SystemExit):
        cli.run(
            lambda: (_ for _ in ()).throw(UserError("'\x1b[31m\n\udc80é' is bad; x"))
        )
    terminal.flush()
    assert raw.getvalue() == rb"picjax: '\x1b[31m \udc80\xe9' is bad; x" + b"\n"


# ---- names ----


def test_markup_in_names_is_shown():
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with progress_bar(console) as bar:
        bar.add_task("[red]a[/red] [/]", total=1)
    assert "[red]a[/red] [/]" in out.getvalue()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a_b", "a_b"),
        ("_a_", r"\_a\_"),
        ("[x](y)", r"\[x\](y)"),
        ("<b>&lt;", r"\<b\>\&lt;"),
        ("a|b*`\n", r"a\|b\*\`"),
        ("\x1b", r"\\x1b"),
    ],
)
def test_markdown(name, shown):
    assert escape(name) == shown


# ---- before a model is loaded ----


@pytest.mark.parametrize("name", ["file", "file/x", "n" * 300, "readonly/x"])
def test_where_nothing_can_be_written(name, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "readonly").mkdir()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda p, mode: "readonly" not in str(p) and access(p, mode)
    )
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    monkeypatch.setattr(complete, "load", lambda *_: pytest.fail("loaded"))
    words = [f"--workdir={tmp_path}", f"--image={tmp_path / 'a.png'}", "--mask=half"]
    with pytest.raises(UserError, match=r"--out '.*' cannot be written to \("):
        complete.main([*words, f"--out={tmp_path / name}"])
    with pytest.raises(UserError, match=r"--out '.*' cannot be written to \("):
        evaluation.main([f"--workdir={tmp_path}", f"--out={tmp_path / name}"])


def test_a_writable_folder_is_left_alone(tmp_path):
    files.check_writable(tmp_path / "a/b", "--out")
    assert not (tmp_path / "a").exists()


# ---- memory ----


def test_estimates(monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda: 1e9)
    memory.check_memory("it", 3.9e9, "make it smaller")
    with pytest.raises(
        UserError, match=r"it needs 41 GB or more.* has 1\.0 GB; make it"
    ):
        memory.check_memory("it", 4.1e10, "make it smaller")


def test_the_largest_array_of_a_program():
    import jax
    import jax.numpy as jnp

    @jax.jit
    def program(x):
        def step(carry, _):
            return carry + jnp.outer(x, x).sum(), None

        return jax.lax.scan(step, jnp.float32(0), length=3)[0]

    x = jax.ShapeDtypeStruct((1000,), "float32")
    assert memory.largest_array(program.trace(x).jaxpr) == 4 * 1000 * 1000


def test_completions_beyond_the_memory():
    model = make_model()
    with pytest.raises(UserError, match=r"completions.*GB or more.*ask for fewer"):
        model.complete(picture(0), "center", n=10**12)


# ---- files that are no workdir ----


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\xff\xfe", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"[1, 2]", "is damaged"),
        (b'{"config": [1]}', "is damaged"),
        (b'{"config": {"system": "picmm"}}', "config.image_size is missing"),
        (b"config", "is damaged"),
    ],
)
def test_damaged_configs(content, what, tmp_path):
    from picjax.checkpoints import read_config

    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=what) as caught:
        read_config(tmp_path)
    assert "; " in str(caught.value)


def test_a_file_is_no_workdir(tmp_path):
    from picjax.checkpoints import read_config

    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a workdir"):
        read_config(tmp_path / "file")


def test_every_message_says_how_to_mend_it():
    """Of messages that are written as one string, in the source."""
    import ast
    from pathlib import Path

    import picjax

    for path in Path(picjax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id not in ("UserError", "NoWeights") or not node.args:
                continue
            parts = [x for x in ast.walk(node.args[0]) if isinstance(x, ast.Constant)]
            text = "".join(str(x.value) for x in parts)
            # A prefix (`scene 'x': `) is followed by another error's message.
            prefix = any(str(x.value).endswith(": ") for x in parts) or len(text) < 8
            assert ";" in text or prefix, f"{path.name}:{node.lineno}: {text}"


def test_text_of_any_name(tmp_path):
    files.write_text(tmp_path / "a.txt", "\udc80é")
    assert (tmp_path / "a.txt").read_text() == "\\udc80é"
