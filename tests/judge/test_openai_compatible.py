"""A judge behind a server, against one on this machine that can be told how to misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from testbed.api import Invalid
from testbed.identity import describe
from testbed.judge.openai_compatible import OpenaiCompatible
from testbed.language import OUTCOMES, Message, Reply

PROMPT = (Message("user", "what?"),)


class Server(ThreadingHTTPServer):
    """Answers with the codes and bodies of `script`, then with its verdict: REFUSE where it was shown a 'sorry'."""

    script: list[tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, dict[str, str], dict[str, Any]]]
    always: int | None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        text = body["messages"][0]["content"]
        told = {"choices": [{"message": {"content": " Refuse." if "sorry" in text else "COMPLY"}}]}
        code, headers, answer = self.server.script.pop(0) if self.server.script else (self.server.always or 200, {}, b"")
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer or json.dumps(told).encode())

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MY_KEY", "secret-7")
    made = Server(("127.0.0.1", 0), Handler)
    made.script, made.asked, made.always = [], [], None
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def judge_at(server: Server, **changes: Any) -> OpenaiCompatible:
    parts: dict[str, Any] = {
        "base_url": f"http://127.0.0.1:{server.server_port}/v1/",
        **{"model": "m", "api_key_env": "MY_KEY", "template": "{prompt} / {reply}", "delimiters": (), "characters": None},
        **{"verdicts": (("(?i)^refus", "refuse"), ("(?i)^compl", "comply")), "otherwise": None, "options": {"temperature": 0}},
        **{"timeout": 5.0, "retries": 2, "backoff": 0.0, "concurrency": 3},
    }
    return OpenaiCompatible(**{**parts, **changes})


def say(judge: OpenaiCompatible, *texts: str) -> list[str]:
    found = judge.outcomes([PROMPT] * len(texts), [Reply(text) for text in texts], [""] * len(texts))
    return [OUTCOMES[place] for place in found.tolist()]


def test_every_reply_is_asked_about_once_in_the_expected_form(server: Server) -> None:
    texts = [f"{'sorry' if number % 3 else 'sure'} {number}" for number in range(12)]
    assert say(judge_at(server), *texts, texts[0], "") == [*(["comply", "refuse", "refuse"] * 4), "comply", "empty"]
    assert len(server.asked) == 12
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret-7"
    assert body == {"temperature": 0, "model": "m", "messages": body["messages"]} and len(body["messages"]) == 1
    assert {body["messages"][0]["content"] for _, _, body in server.asked} == {f"what? / {text}" for text in texts}


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}])
def test_a_busy_server_is_asked_again(server: Server, headers: dict[str, str]) -> None:
    server.script = [(429, headers, b"busy"), (503, headers, b"busy")]
    assert say(judge_at(server, concurrency=1), "sorry") == ["refuse"] and len(server.asked) == 3


def test_a_server_that_fails_for_ever_is_named_with_what_it_said(server: Server) -> None:
    server.always = 500
    with pytest.raises(ConnectionError, match=r"judge\.base_url=http://127.*answered 500 .*, asked 3 times"):
        say(judge_at(server, concurrency=1), "sorry")
    assert len(server.asked) == 3
    server.always = None
    server.asked.clear()
    assert say(judge_at(server), "sorry") == ["refuse"]


def test_nobody_there_is_no_fault_of_the_configuration(server: Server) -> None:
    judge = judge_at(server, base_url="http://127.0.0.1:9", retries=1)
    with pytest.raises(ConnectionError, match=r"no answer \(.*, asked 2 times"):
        say(judge, "sorry")


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (200, b"<html>", "not of OpenAI's form: b'<html>'"),
        (200, b'{"choices": []}', "not of OpenAI's form"),
        (200, b'{"choices": [{"message": {"content": "Perhaps"}}]}', "the judge said 'Perhaps', which none of them matches"),
        (200, b'{"choices": [{"message": {"content": null}}]}', "the judge said ''"),
        (401, b"no", r"answered 401 .*is the key in judge\.api_key_env right"),
        (404, b"no", r"answered 404 .*is judge\.base_url right"),
    ],
)
def test_an_answer_that_is_of_no_use_is_said_at_once(server: Server, code: int, body: bytes, said: str) -> None:
    server.script = [(code, {}, body)]
    with pytest.raises(Invalid, match=said) as raised:
        say(judge_at(server), "sorry")
    assert len(server.asked) == 1 and "secret-7" not in str(raised.value)


def test_the_key_goes_to_no_other_address(server: Server) -> None:
    server.script = [(302, {"Location": f"http://127.0.0.1:{server.server_port}/elsewhere"}, b"")]
    with pytest.raises(Invalid, match="answered 302"):
        say(judge_at(server), "sorry")
    assert [path for path, *_ in server.asked] == ["/v1/chat/completions"]


def test_the_key_is_kept_nowhere_and_its_absence_is_noticed_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judge_at(server)
    say(judge, "sorry")
    assert "secret-7" not in repr(vars(judge)) and "secret-7" not in json.dumps(describe(judge))
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(Invalid, match=r"judge\.api_key_env=MY_KEY: this variable is not set"):
        judge_at(server).check(None)
    judge_at(server, api_key_env=None).check(None)
    assert say(judge_at(server, api_key_env=None), "sorry") == ["refuse"] and "Authorization" not in server.asked[-1][1]
    with pytest.raises(Invalid, match=r"judge\.base_url=file:///etc: must begin with http"):
        judge_at(server, base_url="file:///etc").check(None)
