"""Serve a page on this machine to try a trained model, with videos or the camera.

The server answers only on the loopback address, and only to its own page. Nothing leaves the
machine, and a video is removed as soon as it is classified.
"""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidrec.errors import UserError
from vidrec.evaluation.predict.classifier import Classifier
from vidrec.io import files
from vidrec.io.machine import cache_dir, how_to_install

HOST = "127.0.0.1"
CONNECTIONS = 32  # open at the same time; a page uses a few


def serve(
    model: Classifier,
    name: str,
    *,
    port: int = 0,
    limit: float = 500.0,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the page until the process is asked to end.

    Args:
        model: a trained model of frames.
        name: the model's name on the page.
        port: the port to listen on; 0: any free port.
        limit: largest size of an upload, in megabytes.
        tell: is called with the address once the server is ready.

    Raises:
        UserError: the model reads no frames, the port is taken, or a library is missing.
    """
    uvicorn = check_installed()
    check(model)
    from vidrec.evaluation.demo.app import build

    listening = _listening(port)
    with listening, files.temporary_folder(cache_dir() / "demo") as folder:
        app = build(model, name, Path(folder), round(limit * 1e6))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=2,
                ws="none",
                lifespan="off",
            )
        )
        tell(f"http://{HOST}:{listening.getsockname()[1]}")
        server.run(sockets=[listening])


def check(model: Classifier) -> None:
    """Raise a UserError for a model that reads no frames."""
    if model.network.takes_features:
        raise UserError(
            "this model was trained on features made elsewhere, so it cannot read a video: the "
            "demo needs a model of frames"
        )


def check_installed() -> Any:
    """Return the module uvicorn.

    Raises:
        UserError: uvicorn or Starlette is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError:
        raise UserError(f"the demo needs Starlette and uvicorn: {how_to_install('demo')}") from None
    return uvicorn


def _listening(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
        made.listen(CONNECTIONS)  # requests may come as soon as the address is known
    except OSError as error:
        made.close()
        why = error.strerror or error
        raise UserError(f"--port {port}: {why}; --port 0 takes one that is free") from None
    return made


__all__ = ["check", "check_installed", "serve"]
