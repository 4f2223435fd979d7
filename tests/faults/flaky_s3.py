"""A proxy in front of an S3 server that answers with errors, hangs up, or hangs, when it is told to or now and then."""

import http.client
import itertools
import socket
import struct
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CONTROL = "/--become--/"
BACK_SECONDS = 120  # that a request hangs at most


class FlakyS3:
    """`mode` is "well", "error" (503), "reset", "hang" (until it changes), or "flaky": each third request fails, in turn in each way."""

    def __init__(self, upstream: str):
        self.upstream, self.mode, self.failed = urlsplit(upstream).netloc, "well", 0
        self.changed, self.count = threading.Condition(), itertools.count()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"proxy": self}))
        self.server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.become("well")
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def become(self, mode: str) -> None:
        with self.changed:
            self.mode = mode
            self.changed.notify_all()

    def failure(self) -> str:
        """Say in which way the next request fails; "" where it does not."""
        number = next(self.count)
        if self.mode == "flaky":
            return ("error", "reset", "late")[number // 3 % 3] if number % 3 == 2 else ""
        return "" if self.mode == "well" else self.mode


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FlakyS3

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith(CONTROL):
            self.proxy.become(self.path.removeprefix(CONTROL))
            return self.answer(200, [], b"")
        failure = self.proxy.failure()
        if failure:
            self.proxy.failed += 1
        if failure == "error":
            return self.answer(503, [], b"<Error><Code>ServiceUnavailable</Code><Message>away</Message></Error>")
        if failure == "hang":
            with self.proxy.changed:
                self.proxy.changed.wait_for(lambda: self.proxy.mode != "hang", BACK_SECONDS)
        if failure in ("reset", "hang"):
            return self.reset()
        if failure == "late":
            time.sleep(0.5)
        upstream = http.client.HTTPConnection(self.proxy.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers))
        reply = upstream.getresponse()
        self.answer(reply.status, reply.getheaders(), reply.read())
        upstream.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        told = dict(headers)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", told.get("Content-Length", "0") if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self) -> None:
        """Hang up in the middle of a conversation (RST)."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *arguments) -> None:
        pass

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            pass  # it was reset


def become(uri: str, mode: str) -> None:
    """Tell the proxy at `uri`, from whatever process."""
    urllib.request.urlopen(urllib.request.Request(uri + CONTROL + mode, method="POST"), timeout=10).close()
