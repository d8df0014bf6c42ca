"""The painter in a browser, and completions over HTTP (docs/app.md).

    pip install -e '.[app]'
    python -m picjax.app

`orders` says what can be asked for and `worker` does it, one order at a time; `http` and
`page` are two ways to ask. Only `page` needs gradio.
"""

from picjax.app.command import main

__all__ = ["main"]
