"""Refuse requests that do not come from the page itself: other host names, other origins.

A site in the same browser can send requests to this machine, and can make its own host name resolve
to 127.0.0.1. So the host name of a request must be this machine's own, and requests that change or
read anything must come from the page that was loaded from this machine.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
NAMES = ("127.0.0.1", "localhost", "[::1]")
# The browser loads nothing from other hosts, lets no page frame this one, and caches nothing.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """An ASGI application that passes on to another one only the requests that are allowed."""

    def __init__(self, app: App):
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or answer that it is refused."""
        if scope["type"] != "http":
            return
        reason = refusal(scope["method"], scope["path"], scope["headers"])

        async def send_guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        if reason:
            await _refuse(reason, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)


def refusal(method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return why a request is refused; "" if it is allowed."""
    given: dict[str, list[str]] = {}
    for name, value in headers:
        given.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    hosts = given.get("host", [])
    if len(hosts) != 1 or _without_port(hosts[0]) not in NAMES:
        return "this page answers to 127.0.0.1 and localhost only"
    own, origins = f"http://{hosts[0]}", given.get("origin", [])
    if any(origin != own for origin in origins):
        return "this page answers to itself only, not to pages of other origins"
    if method not in ("GET", "HEAD") and not origins:
        return "a request that changes something must name the page as its origin"
    site = given.get("sec-fetch-site", ["none"])[0]
    # A link on another site may open the page itself, but nothing else.
    if site not in ("same-origin", "none") and path != "/":
        return "this page answers to itself only, not to other sites"
    return ""


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name.lower() if colon and port.isdigit() else host.lower()


async def _refuse(reason: str, send: Any) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
