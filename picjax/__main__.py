"""Every command as `picjax NAME ...`, the same as `python -m picjax.NAME ...`."""

import importlib
import sys

from picjax import cli

COMMANDS = {
    "train": "train a model",
    "complete": "complete images",
    "eval": "measure completions",
    "app": "paint and complete in a browser, or over HTTP",
    "plot": "draw training curves, or an evaluation's table",
    "plan": "what a training run costs on a cluster",
    "compose": "paste cut-outs onto a canvas",
    "export": "write a model as one file",
    "convert": "import or export official weights",
    "data.pack": "pack images into ArrayRecord shards",
    "data.export": "write held-out images as files",
}


def dispatch() -> None:
    """Run the command that the first argument names with the remaining ones.

    Raises:
      UserError: if the command is unknown.
    """
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: picjax COMMAND ...    (picjax COMMAND --help)\n")
        for command, description in COMMANDS.items():
            print(f"  {command:12} {description}")
        print("\nexample: picjax train --config=picmm:scenes")
        return
    cli.check_choice("command", name, COMMANDS)
    importlib.import_module(f"picjax.{name}").main(words)


def main() -> None:
    """The console script."""
    cli.run(dispatch)


if __name__ == "__main__":
    main()
