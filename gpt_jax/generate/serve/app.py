"""The server as an ASGI application: routes, limits, and who is let in.

A text is written only while somebody waits for it: when a client goes away, or its time is over,
its slots are free at the engine's next step.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gpt_jax.generate.serve import api
from gpt_jax.generate.serve.api import ApiError, Served, Wish
from gpt_jax.generate.serve.engine import Engine, Refused
from gpt_jax.generate.serve.replies import Form, usage
from gpt_jax.generate.serve.rows import Piece, Row

SPARE_SECONDS = 30
"""For a client to take what is left, once its text has ended."""
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_app(engine: Engine, served: Served, host: str) -> Starlette:
    """The application that answers for `engine`, which has been started, on an address `host`."""
    server = _Server(engine, served)
    return Starlette(
        routes=[
            Route("/", _page),
            Route("/health", server.health),
            Route("/v1/models", server.models),
            Route("/v1/models/{name:path}", server.model),
            Route("/v1/completions", server.answer(api.completion), methods=["POST"]),
            Route("/v1/chat/completions", server.answer(api.chat_completion), methods=["POST"]),
        ],
        middleware=[Middleware(_Door, host=host)],
        exception_handlers={ApiError: _told, HTTPException: _told, ClientDisconnect: _gone},
    )


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Door:
    """Lets nobody in by a page of another site.

    Such a page can send requests to a server on this machine. Its browser says whose page it is
    (Origin); and where that site's name has been made to mean this machine (DNS rebinding), the
    name is still the one that is asked for (Host).
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app, self._local = app, is_local(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Request(scope).headers
            host, origin = headers.get("host", ""), headers.get("origin")
            try:
                name = urlsplit(f"//{host}").hostname or ""
                foreign = origin is not None and urlsplit(origin).netloc != host
            except ValueError:
                name, foreign = "", True
            if foreign or (self._local and not is_local(name)):
                error = ApiError(
                    403,
                    f"this server is for this machine's own use, not by {origin or host!r:.60}.",
                )
                await JSONResponse(error.body, error.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Server:
    """What the routes have in common."""

    def __init__(self, engine: Engine, served: Served) -> None:
        self._engine, self._served = engine, served
        self._created = int(time.time())
        # A tokenizer is for one thread at a time, and a long text would hold the others up.
        self._tokenising = ThreadPoolExecutor(1, "tokenizer")

    async def health(self, _: Request) -> Response:
        state = "failed" if self._engine.failed else "ok"
        return JSONResponse(
            {"status": state, **self._engine.counts()}, 503 if state != "ok" else 200
        )

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self._served.name:
            raise ApiError(404, f"there is no model {name!r:.80} here.", "model", "model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        name = self._served.name
        return {"id": name, "object": "model", "created": self._created, "owned_by": "gpt_jax"}

    def answer(self, read: Callable[[Served, Any], Wish]) -> Callable[[Request], Any]:
        """A route's function, for requests that `read` understands."""

        async def route(request: Request) -> Response:
            body = await _body(request, self._served)
            loop = asyncio.get_running_loop()
            wish = await loop.run_in_executor(self._tokenising, self._read, read, body)
            return _Answer(self._engine, self._served, wish)

        return route

    def _read(self, read: Callable[[Served, Any], Wish], body: bytes) -> Wish:
        try:
            value = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the body must be JSON: {error}.") from None
        return read(self._served, value)


class _Answer(Response):
    """Texts on their way to a client; nothing is left of them when it has gone."""

    def __init__(self, engine: Engine, served: Served, wish: Wish) -> None:
        """Queue what is wished for; raises ApiError where there is no room for it."""
        self._engine, self._wish, self._served = engine, wish, served
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(piece: Piece) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        prompts = [prompt for prompt in wish.prompts for _ in range(wish.n)]
        deadline = time.monotonic() + served.limits.seconds
        rows = [
            Row(served.tokenizer, wish, index, prompt, send, deadline)
            for index, prompt in enumerate(prompts)
        ]
        self._asks = [row.ask for row in rows]
        self._form = Form(wish, served.name, served.tokenizer)
        try:
            engine.submit(self._asks)
        except Refused as refused:
            raise _ended(refused.reason, served) from None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(self._watch(receive))
        try:
            async with asyncio.timeout(self._served.limits.seconds + SPARE_SECONDS):
                if self._wish.stream:
                    await self._stream(send)
                else:
                    await self._at_once(scope, receive, send)
        except (_Gone, TimeoutError):
            pass  # nobody is there to be told
        finally:
            watch.cancel()
            self._engine.cancel(self._asks)

    async def _watch(self, receive: Receive) -> None:
        """Tell the one that sends when the client has gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._pieces.put_nowait(None)

    async def _each(self) -> AsyncIterator[Piece]:
        """The pieces of all texts as they come, to the end of the last; raises ApiError, _Gone."""
        left = len(self._asks)
        while left:
            piece = await self._pieces.get()
            if piece is None:
                raise _Gone
            if piece.finish not in ("", "stop", "length"):
                raise _ended(piece.finish, self._served)
            left -= piece.finish != ""
            yield piece

    def _usage(self) -> dict[str, int]:
        read = sum(map(len, self._wish.prompts))
        return usage(read, sum(ask.taken for ask in self._asks))

    async def _at_once(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            pieces = [piece async for piece in self._each()]
        except ApiError as error:
            await JSONResponse(error.body, error.status)(scope, receive, send)
        else:
            await JSONResponse(self._form.whole(pieces, self._usage()))(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def event(data: str, more: bool = True) -> None:
            body = f"data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            for part in self._form.first():
                await event(json.dumps(part))
            async for piece in self._each():
                for part in self._form.part(piece):
                    await event(json.dumps(part))
            for part in self._form.last(self._usage()):
                await event(json.dumps(part))
        except ApiError as error:
            await event(json.dumps(error.body))
        await event("[DONE]", more=False)


class _Gone(Exception):
    """The client has gone."""


def _ended(why: str, served: Served) -> ApiError:
    """Why there is no text, or no more of it."""
    if why == "full":
        return ApiError(429, "too many texts are waiting: try again later.", None, "queue_full")
    if why == "time":
        seconds = f"{served.limits.seconds:g}"
        return ApiError(504, f"a request may take {seconds} s, and they are over.", None, "timeout")
    if why == "closed":
        return ApiError(503, "the server is shutting down.", None, "shutting_down")
    return ApiError(500, "the model has failed: see the server's own messages.", None, "failed")


async def _body(request: Request, served: Served) -> bytes:
    """The body of a request; raises ApiError where it is too large, or too slow to come."""
    most, seconds = served.limits.body, served.limits.seconds
    too_large = ApiError(
        413, f"the body of a request may have {most} bytes: send less.", None, "body_too_large"
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"a request must come within {seconds:g} s.", None, "timeout") from None
    return bytes(body)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


async def _page(_: Request) -> Response:
    page = resources.files("gpt_jax.generate.serve").joinpath("page.html").read_text("utf-8")
    headers = {"content-security-policy": PAGE_POLICY, "x-content-type-options": "nosniff"}
    return HTMLResponse(page, headers=headers)


async def _told(request: Request, error: Exception) -> Response:
    """An error by the API's own form."""
    if isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path[:80]}: {error.detail}."
        error = ApiError(error.status_code, message, None, "unknown_url")
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # which nobody reads
