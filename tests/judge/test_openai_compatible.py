"""A judge behind a server, against one on this machine that can be told how to misbehave."""

from __future__ import annotations

import json
import threading
import time
import traceback
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
    """Answers with the codes and bodies of `script`, then with its verdict: REFUSE where it was shown a 'sorry'.

    It declines what holds the text `declines`, and gives the key that it was sent back in its reason.
    """

    script: list[tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, dict[str, str], dict[str, Any]]]
    always: int | None
    declines: str | None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        text = body["messages"][0]["content"]
        told = {"choices": [{"message": {"content": " Refuse." if "sorry" in text else "COMPLY"}}]}
        code, headers, answer = self.server.script.pop(0) if self.server.script else (self.server.always or 200, {}, b"")
        if self.server.declines is not None and self.server.declines in text:
            code, answer = 422, f"filtered {self.headers['Authorization']}\n.".encode()
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
    made.script, made.asked, made.always, made.declines = [], [], None, None
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
        (200, b"<html>", "not of OpenAI's form: '<html>'"),
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


def test_a_wait_of_nothing_is_none_and_what_is_no_number_is_the_backoff(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    for header in ("0", "7", "soon", "\u00b2", "9999"):
        server.script = [(429, {"Retry-After": header}, b"busy")]
        assert say(judge_at(server, concurrency=1, backoff=3.0), "sorry") == ["refuse"]
    assert waits == [0.0, 7.0, 3.0, 3.0, 60.0]


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_declined_reply_has_the_outcome_otherwise_and_costs_no_other(server: Server, code: int) -> None:
    server.script = [(code, {}, b"content filter")]
    texts = ("sorry 0", "sorry 1", "sure 2")
    assert say(judge_at(server, otherwise="wrong", concurrency=1), *texts) == ["wrong", "refuse", "comply"]
    assert len(server.asked) == 3  # it is not asked again
    server.script = [(code, {}, b"content filter")]
    assert say(judge_at(server, otherwise="wrong", concurrency=1), "sorry") == ["wrong"]


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_declined_reply_is_an_error_that_says_what_to_set(server: Server, code: int) -> None:
    server.script = [(code, {}, b'{"error":\n "content filter"}')]
    said = rf'judge\.otherwise=null: the server answered {code} .*"content filter".* 13 characters; say judge\.otherwise='
    with pytest.raises(Invalid, match=said):
        say(judge_at(server, concurrency=1), "sorry", "sure")


def test_a_server_that_declines_everything_is_no_judge_of_replies(server: Server) -> None:
    server.always = 400
    with pytest.raises(Invalid, match=r"judge\.options=\{'temperature': 0\}: the server answered 400 .*as about every reply"):
        say(judge_at(server, otherwise="wrong"), "sorry", "sure")
    server.always, server.declines = None, "sure"
    assert say(judge_at(server, otherwise="wrong"), "sure 1", "sure 2") == ["wrong", "wrong"]


@pytest.mark.parametrize(
    "key", ["sk-SECRET\nX", "sk-SECRET\r\nHost: x", "sk-SECRET\u00e9", "\u201csk-SECRET\u201d", "sk-SECRET\x7fX"]
)
def test_a_key_that_fits_in_no_header_is_refused_and_not_repeated(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    for attempt in (judge_at(server).check, judge_at(server)._posted):
        with pytest.raises(Invalid, match=r"^judge\.api_key_env=MY_KEY: the key in this variable has a line break") as raised:
            attempt(b"")
        assert "SECRET" not in "".join(traceback.format_exception(raised.value))
    monkeypatch.setenv("MY_KEY", " sk-SECRET\n")
    assert say(judge_at(server), "sorry") == ["refuse"] and server.asked[-1][1]["Authorization"] == "Bearer sk-SECRET"
    with pytest.raises(Invalid, match="is no name of a variable; export the key") as raised:
        judge_at(server, api_key_env="sk-SECRET").check(None)
    assert "SECRET" not in str(raised.value)


def test_a_key_that_a_server_sends_back_is_in_no_error(server: Server) -> None:
    told = '{"choices": [{"message": {"content": "I know secret\\u002d7"}}]}'
    scripts: list[tuple[int, dict[str, str], bytes]] = [
        (200, {}, b"<html> secret-7"),
        (200, {}, told.encode()),
        (422, {}, b"secret-7 is"),
        (401, {}, b"secret-7"),
    ]
    for script in scripts:
        server.script = [script]
        with pytest.raises(Invalid) as raised:
            say(judge_at(server), "sorry")
        assert "secret-7" not in "".join(traceback.format_exception(raised.value))
    server.declines = "sorry"
    with pytest.raises(Invalid, match=r"\(filtered Bearer \*\*\* \.\)"):
        say(judge_at(server), "sorry")


def test_what_makes_no_request_is_named_without_its_headers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match=r"judge\.base_url=.*: no request can be made of it \(UnicodeEncodeError\)"):
        say(judge_at(server, base_url=f"http://127.0.0.1:{server.server_port}/\u00e9"), "sorry")
    judge = judge_at(server)
    monkeypatch.setattr(OpenaiCompatible, "_headers", lambda self: {"Authorization": "Bearer secret-7\nX"})
    with pytest.raises(Invalid, match=r"no request can be made of it \(ValueError\)") as raised:
        say(judge, "sorry")
    assert "secret-7" not in "".join(traceback.format_exception(raised.value)) and not server.asked


@pytest.mark.parametrize(
    "address",
    [
        *("http://me:hunter2@localhost/v1", "https://hunter2@localhost", "ftp://me:hunter2@localhost", "me:hunter2@localhost"),
        *("http://me:hunter2[@localhost", "http://me:hunter2\u2100@localhost", "http://me:hunter2@localhost:port/v1"),
    ],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(server: Server, address: str) -> None:
    with pytest.raises(Invalid, match=r"^judge\.base_url: must hold no user:password@.*judge\.api_key_env") as raised:
        judge_at(server, base_url=address).check(None)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))
    with pytest.raises(Invalid, match=r"judge\.base_url=http://localhost:port: must begin with"):
        judge_at(server, base_url="http://localhost:port").check(None)
    judge_at(server, base_url="http://localhost:8000/@me/v1").check(None)


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
