"""The responses of faults: errors, pages, redirects, and bodies that are cut or slow."""

import asyncio
import json


async def send_error(status: int, message: str, retry_after: int | None, send) -> None:
    """A response of an error status, with Retry-After if it is given."""
    headers = [] if retry_after is None else [(b"retry-after", str(retry_after).encode())]
    await _respond(status, json.dumps({"error": message}).encode(), "application/json", headers, send)


async def send_page(text: str, content_type: str, send) -> None:
    """A successful response that the Hub did not send, such as a login page."""
    await _respond(200, text.encode(), content_type, [], send)


async def send_redirect(location: str, send) -> None:
    """A redirect to an address or a path."""
    await _respond(302, b"", "text/plain", [(b"location", location.encode())], send)


async def _respond(status: int, body: bytes, content_type: str, headers: list, send) -> None:
    usual = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*usual, *headers]})
    await send({"type": "http.response.body", "body": body})


def trickled(seconds: float, send):
    """A `send` that sends the body byte by byte, with so many seconds between."""

    async def send_slowly(message) -> None:
        for byte in message.get("body", b""):
            await send({**message, "body": bytes([byte]), "more_body": True})
            await asyncio.sleep(seconds)
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_slowly


async def discard(message) -> None:
    pass


def truncated(count: int, send):
    """A `send` that limits body and Content-Length to `count` bytes."""
    left = count

    async def send_truncated(message) -> None:
        nonlocal left
        if message["type"] == "http.response.start":
            headers = [
                (key, str(min(count, int(value))).encode() if key.lower() == b"content-length" else value)
                for key, value in message["headers"]
            ]
            return await send({**message, "headers": headers})
        body = message.get("body", b"")[:left]
        left -= len(body)
        await send({**message, "body": body})

    return send_truncated
