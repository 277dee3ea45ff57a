"""Access control: a request needs the link's token, and comes from this page, by a name that no other site can take.

A page on another site can send requests to 127.0.0.1, and by rebinding a domain of its own make them look like its own.
So every request needs the token, which that page cannot know; a Host that is this machine's own name; and an Origin,
where the browser tells one, that is this page's.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
REFUSAL = "Open the link that `upright dashboard` printed: it holds the token without which nothing is shown.\n"


def make_token() -> str:
    """256 random bits, for the link."""
    return secrets.token_urlsafe(32)


def is_loopback(host: str) -> bool:
    """True if a host can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Answers 403 to requests without access, and puts the headers of `HEADERS` on every answer.

    allow_remote: take the machine's own names and any numbered address as Host too, and not only loopback's: a site
    that rebinds its domain comes with the domain's name
    """

    def __init__(self, app: ASGIApp, token: str, cookie: str, allow_remote: bool) -> None:
        self._app, self._token, self._cookie, self._allow_remote = app, token, cookie, allow_remote
        self._names = {"localhost"} | (
            {socket.gethostname().lower(), socket.getfqdn().lower()} if allow_remote else set()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        is_from_link = self._is_link(scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if is_from_link:
                    headers.append(
                        "set-cookie",
                        f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000",
                    )
            await send(message)

        if not self._may_ask(scope, is_from_link):
            is_from_link = False
            await PlainTextResponse(REFUSAL, 403)(scope, receive, answer)
            return
        await self._app(scope, receive, answer)

    def _is_link(self, scope: Scope) -> bool:
        if scope["path"] != "/" or scope["method"] not in ("GET", "HEAD"):
            return False
        try:
            given = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=20).get("token", [""])[0]
        except ValueError:
            return False
        return self._is_token(given)

    def _may_ask(self, scope: Scope, is_from_link: bool) -> bool:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return False
        origins = headers.getlist("origin")
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return False
        if not origins and scope["method"] not in ("GET", "HEAD"):
            return False
        if is_from_link:
            return True  # also where another site's page shows the link
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        return self._is_token(self._cookie_of(headers))

    def _is_own(self, host: str) -> bool:
        name, port = _split(host)
        if name is None or (port and not (port.isascii() and port.isdigit() and len(port) <= 5)):
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self._names
        return self._allow_remote or address.is_loopback

    def _cookie_of(self, headers: Headers) -> str:
        for line in headers.getlist("cookie"):
            try:
                jar = SimpleCookie(line)
            except CookieError:
                continue
            if self._cookie in jar:
                return jar[self._cookie].value
        return ""

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


def _split(host: str) -> tuple[str | None, str]:
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None, ""
        return name, rest[1:]
    name, _, port = host.partition(":")
    return (name or None), port
