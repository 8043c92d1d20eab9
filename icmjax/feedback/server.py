"""A page on loopback that asks the questions of an interview, one at a time.

Any program on the machine can reach a port of loopback, and any page in the browser can send to it.
So each request has to know the random token of the address, name this very host, and where it
writes come from this very page; anything else is refused.
"""

import contextlib
import hmac
import html
import http.server
import importlib.resources
import json
import pathlib
import secrets
import socketserver
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import jinja2

from icmjax.errors import InputError, RunError
from icmjax.feedback.interview import Interview
from icmjax.files import write_text

MAX_BODY = 4096  # bytes of a reply
TIMEOUT = 10.0  # seconds that a request may take to come
FILES = {
    "ask.css": "text/css; charset=utf-8",
    "ask.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
OWN_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The report is one file with its styles and figures inside. As an origin of its own it can reach
# nothing here.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox allow-scripts"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

LEADING = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={0}">
<title>icmjax ask</title>
</head>
<body><p><a href="{0}">To the questions</a></p></body>
</html>
"""


class PageServer(http.server.ThreadingHTTPServer):
    """Serves the page of one interview, on a free port of loopback."""

    daemon_threads = True

    def __init__(self, interview: Interview):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.interview = interview
        self.token = secrets.token_urlsafe(32)

    @property
    def hosts(self) -> tuple[str, str]:
        """The names by which the page may be asked for."""
        return f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"

    @property
    def url(self) -> str:
        """The address of the page, with its token."""
        return f"http://{self.hosts[0]}/{self.token}/"

    def server_bind(self) -> None:
        """Bind, without asking a name server for the machine's name as the library does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error of the server's."""


@contextlib.contextmanager
def serve_page(interview: Interview) -> Iterator[PageServer]:
    """Serve the page of an interview by threads of their own, until the context ends."""
    with PageServer(interview) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def leading_file(url: str, folder: pathlib.Path) -> Iterator[str]:
    """A file that leads a browser to an address, there until the context ends; its own address.

    All users of a machine see what a browser is opened with, and this file only its owner can read.

    Args:
      folder: where the file is made. A browser in a sandbox sees no folder of temporary files.

    Raises:
      RunError: it cannot be written.
    """
    path = folder.resolve() / f"ask-{secrets.token_hex(8)}.html"
    write_text(path, LEADING.format(html.escape(url)), private=True, error=RunError)
    try:
        yield path.as_uri()
    finally:
        path.unlink(missing_ok=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: PageServer
    timeout = TIMEOUT
    server_version, sys_version = "icmjax", ""
    policy = OWN_POLICY

    def do_GET(self) -> None:
        """The page, its files, what it shows, or the report of the new run."""
        place = self._place()
        if place is None:
            return
        if place == "":
            self._answer(_page(self.server.interview), "text/html; charset=utf-8")
        elif place == "state":
            self._answer_json(self.server.interview.state())
        elif place in FILES:
            self._answer(_file(place), FILES[place])
        elif place == "report.html" and (path := self.server.interview.report) is not None:
            self.policy = REPORT_POLICY
            self._answer(path.read_text("utf-8"), "text/html; charset=utf-8")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """A reply, or the end of it all."""
        place = self._place()
        if place is None:
            return
        if self.headers.get("Origin") not in [f"http://{host}" for host in self.server.hosts]:
            self.send_error(HTTPStatus.FORBIDDEN, "another origin")
            return
        if place not in ("reply", "close"):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = self._body()
        if body is None:
            return
        if place == "close":
            self._answer_json({"phase": "closed"})
            self.server.interview.close()
            return
        try:
            self.server.interview.reply(body.get("question"), body.get("reply"))
        except InputError as error:
            self._answer_json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        else:
            self._answer_json(self.server.interview.state())

    def _place(self) -> str | None:
        """What is asked for, behind the token; None where the request was answered already."""
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(HTTPStatus.FORBIDDEN, "another host")
            return None
        token, _, place = self.path.removeprefix("/").partition("/")
        if hmac.compare_digest(token.encode(), self.server.token.encode()):
            return place
        self.send_error(HTTPStatus.FORBIDDEN, "another token")
        return None

    def _body(self) -> dict[str, Any] | None:
        """The JSON object of a request; None where the request was refused."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return None
        if int(length) > MAX_BODY:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            # A browser that is cut off while it still sends would not see the answer.
            self.rfile.read(min(int(length), 16 * MAX_BODY))
            return None
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            self.send_error(HTTPStatus.BAD_REQUEST, "no JSON object")
            return None
        return body

    def _answer_json(self, value: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._answer(json.dumps(value), "application/json", status)

    def _answer(self, text: str, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        content = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request in one line of text."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._answer(f"{code} {message or status.phrase}\n", "text/plain; charset=utf-8", status)

    def end_headers(self) -> None:
        """Every answer says that it is not kept, and what the page may load."""
        for name, value in {**HEADERS, "Content-Security-Policy": self.policy}.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the address has the token."""


def _file(name: str) -> str:
    return (importlib.resources.files("icmjax.feedback") / "page" / name).read_text("utf-8")


def _page(interview: Interview) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    state = interview.state()
    return environment.from_string(_file("ask.html")).render(
        name=state["name"], num_questions=len(state["questions"]), about=state["about"]
    )
