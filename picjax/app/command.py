"""`python -m picjax.app`: the options, and starting and stopping the server."""

import argparse
import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from typing import Any

from picjax import signals
from picjax.cli import Parser, UserError, require

LOG = logging.getLogger("picjax.app")
LAST_ANSWERS = 3  # seconds in which answers are sent once the last request is served
LIMITS = (
    ("queue", 16, "requests that may wait"),
    ("models", 2, "runs kept in memory"),
    ("max-mb", 32, "megabytes of a request"),
    ("max-pixels", 2**24, "of a picture"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that were accepted are served first.

    Raises:
      UserError: for anything that the user can fix.
    """
    args = parse(argv)
    for module in ("gradio", "prometheus_client"):
        require(module, "app")
    from picjax.app.server import make_app, make_worker

    check_address(args)
    listening = listen(args.host, args.port)
    logging.basicConfig(format="%(asctime)s %(message)s", force=True)
    LOG.setLevel(logging.INFO)
    with signals.deferred():
        worker, metrics = make_worker(args)
        app = make_app(worker, metrics, args)
        host = f"[{args.host}]" if ":" in args.host else args.host
        print(f"picjax: http://{host}:{listening.getsockname()[1]}", flush=True)
        serve(app, worker, listening)
        signals.forget()


def check_address(args: argparse.Namespace) -> None:
    """Refuse to serve everyone in the network without a secret.

    Raises:
      UserError: unless --no-auth is given.
    """
    from picjax.app.access import is_loopback

    if args.auth and (":" not in args.auth or args.auth.startswith(":")):
        raise UserError("--auth has no password; give user:password")
    if not (is_loopback(args.host) or args.auth or args.token or args.no_auth):
        raise UserError(
            f"--host {args.host} can be reached from other machines; add "
            "--auth=user:password, --token=SECRET, or --no-auth if all may use it"
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one.

    Raises:
      UserError: if the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"--host {host} --port {port} cannot be listened on ({reason}); choose another"
        ) from error


def serve(app: Any, worker: Any, listening: socket.socket) -> None:
    """Run the server until a signal; complete what was accepted before it ends."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: Any = None) -> None:
            LOG.info("stopping; %d requests wait", worker.waiting)
            await asyncio.to_thread(worker.drain)
            asyncio.get_running_loop().call_later(LAST_ANSWERS, self.hang_up)
            await super().shutdown(sockets)

        def hang_up(self) -> None:
            """Close the connections that are left: an open page waits for news."""
            for connection in list(self.server_state.connections):
                connection.transport.abort()

    options: Any = {"log_level": "warning", "access_log": False}
    config = uvicorn.Config(
        app, server_header=False, timeout_graceful_shutdown=2 * LAST_ANSWERS, **options
    )
    Server(config).run([listening])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="python -m picjax.app",
        usage="%(prog)s [--workdir DIR ...] [--host 127.0.0.1] [--port 7860] [...]",
        description="Paint a hole into a picture in a browser, choose among completions.",
        epilog="example: python -m picjax.app --workdir=runs/demo-picmm",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--workdir",
        action="append",
        default=[],
        metavar="DIR",
        help="a run; repeatable (all of runs/)",
    )
    add(
        "--host",
        default="127.0.0.1",
        metavar="IP",
        help="address to listen on (127.0.0.1)",
    )
    add("--port", type=int, default=7860, metavar="N", help="port (7860)")
    secret = os.environ.get
    add(
        "--auth",
        default=secret("PICJAX_AUTH", ""),
        metavar="U:P",
        help="user:password; also PICJAX_AUTH",
    )
    add(
        "--token",
        default=secret("PICJAX_TOKEN", ""),
        metavar="T",
        help="a secret; also PICJAX_TOKEN",
    )
    add("--no-auth", action="store_true", help="let everyone in the network use it")
    for name, default, what in LIMITS:
        add(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"{what} ({default:,})",
        )
    args = parser.parse_args(argv)
    if not 0 <= args.port < 2**16:
        parser.error(f"--port is {args.port}; give 0 (any free one) to 65535")
    for name, _, _ in LIMITS:
        value = getattr(args, name.replace("-", "_"))
        if value < 1:
            parser.error(f"--{name} is {value}; give 1 or more")
    return args
