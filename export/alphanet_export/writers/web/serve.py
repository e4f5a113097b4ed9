"""Serves this folder to a browser, with the headers that let WebAssembly use threads. Needs Python and nothing else."""

from __future__ import annotations

import argparse
import functools
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""The first two isolate the page from others; only then do browsers give it shared memory, and so threads."""

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}


class Handler(SimpleHTTPRequestHandler):
    """The folder's files, each with `HEADERS`; no listing of folders, and no line a request."""

    extensions_map = TYPES

    def end_headers(self) -> None:
        """Adds `HEADERS`."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: object) -> None:
        """Refuses."""
        self.send_error(404, "File not found")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class Server(ThreadingHTTPServer):
    """A server that does not mind a browser that goes away."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Reports what is not the browser's leaving."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> int:
    """Serves until interrupted; returns the exit code."""
    parser = argparse.ArgumentParser(description="Serves this folder to a browser, isolated so that WASM has threads.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one (default: 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; off this machine browsers give "
                        "neither threads nor camera without HTTPS (default: 127.0.0.1)")  # fmt: skip
    arguments = parser.parse_args()
    handler = functools.partial(Handler, directory=str(Path(__file__).resolve().parent))
    try:
        server = Server((arguments.host, arguments.port), handler)
    except (OSError, OverflowError) as error:
        print(f"serve.py: error: cannot listen on {arguments.host} port {arguments.port}: {error}; try --port 0",
              file=sys.stderr)  # fmt: skip
        return 1
    with server:
        print(f"http://{arguments.host}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
