"""The language model step against a real HTTP server on this machine."""

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.describe import MAX_ATTRIBUTE_LENGTH, Endpoint, describe, parse_attributes

ATTRIBUTES = {
    "tumor": "adrenal adenoma",
    "organ": "adrenal gland",
    "shape": "oval",
    "edge": "smooth",
    "modality": "unenhanced CT",
}


def chat(content):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.requests.append((self.path, dict(self.headers), json.loads(body)))
        time.sleep(server.delay_s)
        if server.status is None:
            return
        self.send_response(server.status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(server.answer) + server.missing_bytes))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # of a client that gave up
            self.wfile.write(server.answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests, server.headers = [], {}
    server.answer, server.status, server.delay_s, server.missing_bytes = chat(json.dumps(ATTRIBUTES)), 200, 0, 0
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_asks_and_checks(server):
    assert describe("adrenal adenoma", Endpoint(server.url, "tiny", "secret")) == ATTRIBUTES
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "tiny"
    assert body["messages"][-1] == {"role": "user", "content": "adrenal adenoma"}
    assert all(f'"{key}"' in body["messages"][0]["content"] for key in ATTRIBUTES)


def test_no_key_no_header_and_full_url_is_kept(server):
    describe("x", Endpoint(f"{server.url}/chat/completions", "tiny"))
    ((path, headers, _),) = server.requests
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers


@pytest.mark.parametrize("status", [401, 404, 500])
def test_http_error_names_no_key(server, status):
    server.status = status
    with pytest.raises(MASTProError, match=f"answered HTTP {status} .*; check URL, key and model") as caught:
        describe("x", Endpoint(server.url, "tiny", "secret"))
    assert "secret" not in str(caught.value)


def test_redirect_is_not_followed(server):
    server.status, server.headers = 302, {"Location": f"{server.url}/elsewhere"}
    with pytest.raises(MASTProError, match="answered HTTP 302"):
        describe("x", Endpoint(server.url, "tiny", "secret"))
    assert len(server.requests) == 1


def test_timeout(server):
    server.delay_s = 0.5
    with pytest.raises(MASTProError, match="did not answer within 0.1 s; raise --timeout"):
        describe("x", Endpoint(server.url, "tiny"), timeout_s=0.1)


def test_refused_connection():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(MASTProError, match="cannot be reached .*refused.*; check MASTPRO_LLM_URL"):
        describe("x", Endpoint(f"http://127.0.0.1:{port}/v1", "tiny"), timeout_s=5)


def test_answer_that_breaks_off(server):
    server.answer, server.missing_bytes = server.answer[:20], len(server.answer) - 20
    with pytest.raises(MASTProError, match="did not answer as a chat endpoint does"):
        describe("x", Endpoint(server.url, "tiny"), timeout_s=5)


def test_server_that_hangs_up(server):
    server.status = None
    with pytest.raises(MASTProError, match="cannot be reached|gave no usable HTTP answer"):
        describe("x", Endpoint(server.url, "tiny"), timeout_s=5)


def test_address_that_is_none():
    with pytest.raises(MASTProError, match="gave no usable HTTP answer .*; check MASTPRO_LLM_URL"):
        describe("x", Endpoint("http://127.0.0.1:1/a b", "tiny"), timeout_s=5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>", "did not answer as a chat endpoint does; check MASTPRO_LLM_URL"),
        (b"[]", "did not answer as a chat endpoint does"),
        (b'{"choices": []}', "did not answer as a chat endpoint does"),
        (chat(None), "answered without text"),
        (chat("I cannot."), "the model's answer is not JSON .'I cannot.'.; run again"),
    ],
)
def test_bad_answers(server, answer, message):
    server.answer = answer
    with pytest.raises(MASTProError, match=message):
        describe("x", Endpoint(server.url, "tiny"))


@pytest.mark.parametrize("wrap", ["{}", "```json\n{}\n```", "Here you are:\n```\n{}```\nBye."])
def test_code_fences_are_tolerated(wrap):
    answer = json.dumps({**ATTRIBUTES, "edge": " very\n smooth. ", "more": 1})
    assert parse_attributes(wrap.replace("{}", answer)) == {**ATTRIBUTES, "edge": "very smooth"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge": None}, '"edge" in the model\'s answer is None, not a text'),
        ({"edge": ["smooth"]}, '"edge" in the model\'s answer is'),
        ({"edge": " "}, '"edge" in the model\'s answer is'),
        ({"edge": "x" * (MAX_ATTRIBUTE_LENGTH + 1)}, f"characters, more than {MAX_ATTRIBUTE_LENGTH}"),
    ],
)
def test_schema(change, message):
    with pytest.raises(MASTProError, match=message):
        parse_attributes(json.dumps({**ATTRIBUTES, **change}))


def test_schema_wants_an_object_with_every_key():
    with pytest.raises(MASTProError, match="no JSON object"):
        parse_attributes("[1]")
    with pytest.raises(MASTProError, match="lacks edge, modality; run again"):
        parse_attributes(json.dumps({key: ATTRIBUTES[key] for key in ("tumor", "organ", "shape")}))


def test_empty_name(server):
    with pytest.raises(MASTProError, match="name is empty"):
        describe(" ", Endpoint(server.url, "tiny"))
    assert server.requests == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "MASTPRO_LLM_URL is not set; set it to"),
        ({"URL": "file:///etc/hosts", "MODEL": "m"}, "MASTPRO_LLM_URL is file:.*; make it an address that starts"),
        ({"URL": "http://x/v1"}, "MASTPRO_LLM_MODEL is not set; set it to a model"),
    ],
)
def test_environment(monkeypatch, settings, message):
    for name, value in settings.items():
        monkeypatch.setenv(f"MASTPRO_LLM_{name}", value)
    with pytest.raises(MASTProError, match=message):
        Endpoint.from_environment()
