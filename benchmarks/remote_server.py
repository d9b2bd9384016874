"""A server of one folder that answers ranges, each after a delay; `remote.py` runs it.

    python benchmarks/remote_server.py FOLDER SECONDS

prints its URL, and serves until it is ended. It runs by itself, so that its work is no contestant's.
"""

from __future__ import annotations

import http.server
import re
import sys
import time
from pathlib import Path

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


def handler(folder: Path, delay: float) -> type[http.server.BaseHTTPRequestHandler]:
    """Return the class that answers requests for files of a folder."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 0
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            time.sleep(delay)
            path = folder / Path(self.path).name
            size = path.stat().st_size
            match = _RANGE.fullmatch(self.headers.get("Range", ""))
            start, last = (int(match[1]), min(int(match[2]), size - 1)) if match else (0, size - 1)
            self.send_response(206 if match else 200)
            self.send_header("Content-Length", str(last + 1 - start))
            self.send_header("Content-Range", f"bytes {start}-{last}/{size}")
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            with path.open("rb") as file:
                self.connection.sendfile(file, start, last + 1 - start)

        def log_message(self, *_arguments: object) -> None:
            """Print nothing."""

    return Handler


def main(folder: Path, delay: float) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(folder, delay)) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
