"""Who may ask, and how much they may send: middleware in front of the whole server."""

import base64
import binascii
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

LOG = logging.getLogger("picjax.app")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/health", "/ready")  # for load balancers, which have no password
COOKIE = "picjax_token"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Secrets:
    """What a client must know; empty: nothing.

    Attributes:
      auth: `user:password`, of HTTP's basic authentication.
      token: of `Authorization: Bearer`, or `?token=` once in a browser.
    """

    auth: str = ""
    token: str = ""

    def admits(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request's headers hold one of the secrets."""
        if not self.auth and not self.token:
            return True
        kind, _, value = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"basic" and self.auth:
            return same(decoded(value), self.auth.encode())
        if kind.lower() == b"bearer" and self.token:
            return same(value, self.token.encode())
        return bool(self.token) and same(cookie(headers), self.token.encode())


def same(given: bytes, secret: bytes) -> bool:
    """Comparison whose time does not depend on the contents."""
    return hmac.compare_digest(given, secret)


def decoded(value: bytes) -> bytes:
    """Base64, or nothing if it is none."""
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""


def cookie(headers: dict[bytes, bytes]) -> bytes:
    """The token that a browser was given."""
    try:
        cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return b""
    return cookies[COOKIE].value.encode() if COOKIE in cookies else b""


class Guard:
    """Refuses requests without a secret, and of other hosts' names on a loopback address.

    The second protects an open server on a laptop from web pages whose own name resolves
    to 127.0.0.1.
    """

    def __init__(self, app: App, secrets: Secrets, local: bool):
        self.app = app
        self.secrets = secrets
        self.local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan" or scope.get("path") in OPEN:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self.local and not is_loopback(without_port(host)):
            await refuse(scope, receive, send, 400, "open the page by 127.0.0.1")
        elif self.secrets.admits(headers):
            await self.app(scope, receive, send)
        elif self.secrets.token and same(token(scope), self.secrets.token.encode()):
            response = RedirectResponse(scope["path"], 303)
            options: Any = {"httponly": True, "samesite": "strict"}
            response.set_cookie(COOKIE, self.secrets.token, **options)
            await response(scope, receive, send)
        else:
            sentence = "a user and password are needed, or a token"
            await refuse(scope, receive, send, 401, sentence)


def without_port(host: str) -> str:
    """`127.0.0.1:7860` or `[::1]:7860` without the port."""
    return host[1:].partition("]")[0] if host[:1] == "[" else host.partition(":")[0]


def token(scope: Scope) -> bytes:
    """`?token=` of a request for a page."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return query.get("token", [""])[0].encode()


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, sentence: str
) -> None:
    """Answer with one sentence."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = {"WWW-Authenticate": 'Basic realm="picjax"'} if status == 401 else None
    response = JSONResponse({"error": sentence}, status, headers)
    await response(scope, receive, send)


class LimitBody:
    """Refuses requests of more bytes than a limit while they are read."""

    def __init__(self, app: App, most: int):
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        sentence = f"a request may have {self.most:,} bytes; send smaller files"
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15 or int(length) > self.most:
            await refuse(scope, receive, send, 413, sentence)
            return
        total = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.most:
                raise HTTPException(413, sentence)
            return message

        try:
            await self.app(scope, counted, send)
        except ClientDisconnect:
            LOG.info("%s: the client went away while it sent", scope["path"])
