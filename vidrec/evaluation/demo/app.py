"""Define the web application: the page, and the requests that the page sends."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from vidrec.errors import UserError
from vidrec.evaluation.demo.guard import Guard
from vidrec.evaluation.demo.live import PICTURE_BYTES, Gone, Live
from vidrec.evaluation.demo.uploads import TooLarge, Uploads
from vidrec.evaluation.predict.classifier import Classifier

HERE = Path(__file__).parent


def build(model: Classifier, name: str, folder: Path, limit: int) -> Any:
    """Return the ASGI application.

    Args:
        model: a trained model of frames.
        name: the model's name on the page.
        folder: an empty folder for uploads and overlays.
        limit: largest size of an upload, in bytes.
    """
    demo = Demo(model, name, folder, limit)
    routes = [
        Route("/", _page("page.html")),
        *(Route(f"/{file}", _page(file)) for file in ("page.js", "page.css")),
        Route("/favicon.ico", _no_icon),
        Route("/model", demo.about),
        Route("/clip", demo.clip, methods=["POST"]),
        Route("/overlay/{token}.mp4", demo.overlay),
        Route("/live", demo.begin, methods=["POST"]),
        Route("/live/{stream}", demo.push, methods=["POST"]),
        Route("/live/{stream}", demo.end, methods=["DELETE"]),
        Route("/live/{stream}/anew", demo.anew, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={UserError: _refused}))


class Demo:
    """Answer the requests of the page, with a method for each route of `build`."""

    def __init__(self, model: Classifier, name: str, folder: Path, limit: int):
        self._model, self._name, self._limit = model, name, limit
        self._uploads, self._live = Uploads(model, folder, limit), Live(model)

    async def about(self, request: Request) -> Response:
        """Describe the model."""
        meta = self._model.meta
        seconds = meta.get("clip_seconds") or meta.get("clip_frames", 0) / (meta.get("fps") or 25.0)
        return JSONResponse(
            {
                "name": self._name,
                "classes": list(self._model.classes),
                "scanner": self._model.cfg.scanner.kind,
                "encoder": self._model.cfg.encoder.kind,
                "clip_seconds": round(seconds, 2),
                "megabytes": self._limit / 1e6,
                "why_no_stream": self._live.why_not(),
            }
        )

    async def clip(self, request: Request) -> Response:
        """Classify the video in the request's body."""
        name, announced = (
            request.query_params.get("name", ""),
            request.headers.get("content-length", ""),
        )
        try:
            file = await self._uploads.receive(name, announced, request.stream())
        except ClientDisconnect:
            return Response(status_code=400)
        return JSONResponse(await run_in_threadpool(self._uploads.answer, file))

    async def overlay(self, request: Request) -> Response:
        """Send the video with the answers drawn on it."""
        token = request.path_params["token"]
        if not self._uploads.has(token):
            raise HTTPException(404, "this overlay was removed")
        return FileResponse(self._uploads.overlay(token), media_type="video/mp4")

    async def begin(self, request: Request) -> Response:
        """Open a stream for the camera."""
        return JSONResponse(await run_in_threadpool(self._live.begin))

    async def push(self, request: Request) -> Response:
        """Classify the camera's stream after one more frame, the JPEG in the request's body."""
        picture = await _body(request.stream(), PICTURE_BYTES)
        end = _seconds(request.query_params.get("end", ""))
        stream = request.path_params["stream"]
        return JSONResponse(await run_in_threadpool(self._live.push, stream, picture, end))

    async def anew(self, request: Request) -> Response:
        """Reset a stream to its state before the first frame."""
        await run_in_threadpool(self._live.reset, request.path_params["stream"])
        return JSONResponse({})

    async def end(self, request: Request) -> Response:
        """Close a stream."""
        await run_in_threadpool(self._live.end, request.path_params["stream"])
        return JSONResponse({})


def _page(file: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return FileResponse(HERE / file)

    return answer


async def _no_icon(request: Request) -> Response:
    return Response(status_code=204)


async def _body(parts: AsyncIterator[bytes], limit: int) -> bytes:
    whole = b""
    async for part in parts:
        whole += part
        if len(whole) > limit:
            raise TooLarge(f"a frame should have {limit / 1e6:g} MB at most")
    return whole


def _seconds(text: str) -> float:
    """Return the end of a frame in seconds, from the text of a request.

    Raises:
        UserError: the text is not a number between 0 and 1e6.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e6:
        raise UserError("end should be the seconds at which a frame ends, above 0")
    return value


async def _refused(request: Request, error: Exception) -> Response:
    status = 413 if isinstance(error, TooLarge) else 410 if isinstance(error, Gone) else 422
    return JSONResponse({"error": str(error)}, status)
