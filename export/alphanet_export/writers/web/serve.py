"""Serves this folder with the headers that allow WebAssembly to use threads. Requires only Python."""

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
"""The first two isolate the page from other sites. Browsers allow shared memory, and thus threads, only then."""

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
    """Serves the files of the folder with `HEADERS`. Lists no folders and logs no requests."""

    extensions_map = TYPES

    def end_headers(self) -> None:
        """Adds `HEADERS`."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: object) -> None:
        """Responds with 404."""
        self.send_error(404, "File not found")

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


class Server(ThreadingHTTPServer):
    """A server that ignores connections closed by the browser."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Reports all errors but closed connections."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> int:
    """Serves until interrupted; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Serves this folder with the headers that allow WebAssembly to use threads."
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0 chooses a free one (default: 8000)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; from other machines, browsers "
                        "allow threads and the camera only over HTTPS (default: 127.0.0.1)")  # fmt: skip
    arguments = parser.parse_args()
    handler = functools.partial(Handler, directory=str(Path(__file__).resolve().parent))
    try:
        server = Server((arguments.host, arguments.port), handler)
    except (OSError, OverflowError) as error:
        print(f"serve.py: error: cannot listen on {arguments.host} port {arguments.port}: {error}; pass --port 0",
              file=sys.stderr)  # fmt: skip
        return 1
    with server:
        print(f"http://{arguments.host}:{server.server_port}/ (press Ctrl-C to stop)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
