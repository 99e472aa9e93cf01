"""A real HTTP server on this machine that speaks `/chat/completions`, by a script of answers."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, prompt_tokens=11, completion_tokens=7, finish="stop", **fields):
    """A status and a body that answer with `text`."""
    body = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "served-model-2026",
        "choices": [{
            "index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text},
        }],
        "usage": {
            "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    } | fields
    return 200, json.dumps(body)


def failure(status, message="no"):
    """A status and a body that refuse, with a hint to come back at once."""
    return status, json.dumps({"error": {"message": message, "type": "t", "code": None}})


class FakeEndpoint:
    """Answers requests in turn from `script`; its last entry answers all later ones.

    An entry is `(status, body)`, or a function of the parsed request that gives one. `requests`
    holds what came in: the parsed body with the headers under `headers`. `busiest` is the most
    requests that were under way at once.
    """

    def __init__(self):
        self.script, self.requests = [completion("fine")], []
        self.delay, self.busiest, self._busy = 0.0, 0, 0
        self._lock, self.over = threading.Lock(), threading.Event()
        self._served = 0

    def says(self, *script):
        self.script, self._served = list(script), 0

    def answer(self, request):
        with self._lock:
            self.requests.append(request)
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            entry = self.script[min(self._served, len(self.script) - 1)]
            self._served += 1
        if self.delay:
            time.sleep(self.delay)
        try:
            return entry(request) if callable(entry) else entry
        finally:
            with self._lock:
                self._busy -= 1

    def stall(self, _request):
        """An entry: says nothing until the test is over."""
        self.over.wait(20)
        return completion("too late")


@contextlib.contextmanager
def running():
    """A started endpoint with its `url`; stopped at the end."""
    endpoint = FakeEndpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            request |= {"headers": dict(self.headers), "path": self.path}
            status, body = endpoint.answer(request)
            data = body.encode()
            with contextlib.suppress(ConnectionError):  # the client may have given up
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Retry-After-Ms", "1")
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        endpoint.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
