"""The painter in a browser, and completions over HTTP (docs/app.md).

    pip install -e '.[app]'
    python -m picjax.app

`requests` says what can be asked for, and `worker` serves one request at a time; `http`
and the page are two ways to ask.
"""

from picjax.app.command import main

__all__ = ["main"]
