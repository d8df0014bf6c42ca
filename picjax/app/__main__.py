"""`python -m picjax.app`."""

from picjax.app.command import main
from picjax.cli import run

if __name__ == "__main__":
    run(main)
