"""A small real HTTP server that judges, as any OpenAI-compatible endpoint does."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tunegate import judge_endpoint

SECRET = "sk-0123456789-never-to-be-seen"


@contextmanager
def serving(monkeypatch):
    """Serve chat completions: `reply(material, tries)` gives the text, or (status, headers, body) for another answer."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv(judge_endpoint.KEY, SECRET)
    monkeypatch.setattr(judge_endpoint, "WAIT_SECONDS", 0.01)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            material = json.loads(body["messages"][1]["content"])
            with server.lock:
                server.asked.append({"path": self.path, "key": self.headers["Authorization"], "body": body})
                tries = sum(json.loads(other["body"]["messages"][1]["content"]) == material for other in server.asked)
            answer = server.reply(material, tries)
            if isinstance(answer, str):
                answer = 200, {}, json.dumps({"choices": [{"message": {"content": answer}}]})
            status, headers, text = answer
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.lock, server.asked = threading.Lock(), []
    server.settings = {"url": f"http://127.0.0.1:{server.server_port}/v1", "model": "tiny", "concurrency": 3}
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
