"""A judge behind an HTTP interface of OpenAI's form (`/chat/completions`), wherever it is served."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from testbed.api import Invalid
from testbed.judge.template import Speaking

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
DECLINED = frozenset({400, 413, 422})
"""Answers that are about one text: a content filter's, or that it is too long."""

LONGEST_WAIT = 60.0
SHORTEST_SECRET = 8
"""Shorter keys are placeholders that a local server asks for; hiding 'x' would only spoil what a server said."""


@dataclass(frozen=True, kw_only=True)
class OpenaiCompatible(Speaking):
    """`model` at `base_url` is shown the template as a user's turn, with `options` (temperature, max_tokens, ...) beside it.

    The key is read from the environment variable `api_key_env` when it is needed, and is kept nowhere; None sends none.
    Busy or failing servers are asked again `retries` times, after `backoff` x 2^i seconds or what they say themselves;
    `concurrency` questions are asked at a time. A text that the server declines (400, 413, 422) has the outcome `otherwise`.
    What is judged leaves this machine, unless the server is on it.
    """

    base_url: str
    model: str
    api_key_env: str | None
    options: Mapping[str, Any]
    timeout: float
    retries: int
    backoff: float
    concurrency: int

    meaningless: ClassVar[tuple[str, ...]] = ("api_key_env", "timeout", "retries", "backoff", "concurrency")

    def check(self, resources: Any) -> None:
        """Raises `Invalid`: no address or one with a password, no key where one is named, numbers that cannot be."""
        super().check(resources)
        _require_address(self.base_url)
        for name, least in (("timeout", 0.001), ("retries", 0), ("backoff", 0), ("concurrency", 1)):
            if getattr(self, name) < least:
                raise Invalid(name, getattr(self, name), f"must be at least {least}", component="judge")
        self._headers()

    def said(self, texts: Sequence[str]) -> list[str | None]:
        """What the server says to each; None to what it declines.

        Raises:
            ConnectionError: the server does not answer, however often it is asked.
            Invalid: it declines a text and there is no outcome `otherwise`, or it declines whatever it is asked.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                found = list(pool.map(self._asked, texts))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # one failure is enough: ask no more
                raise
        if found and all(answer is None for answer in found):
            self._require_willing()
        return found

    def _require_willing(self) -> None:
        """Whether the texts are at fault, or the request: wrong `options` must not make every reply `otherwise`."""
        try:
            self._answer("Hello.")
        except Declined as reason:
            limit = f"{reason}, as about every reply"
            raise Invalid("options", dict(self.options), limit, "are they right, and judge.model?", "judge") from reason

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        secret = self._secret()
        return headers if secret is None else {**headers, "Authorization": f"Bearer {secret}"}

    def _secret(self) -> str | None:
        if self.api_key_env is None:
            return None
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):  # a key itself, perhaps: it is not repeated
            raise Invalid(
                "api_key_env", None, "is no name of a variable", "export the key, and say its variable's name", "judge"
            )
        secret = os.environ.get(self.api_key_env, "").strip()
        if not secret:
            limit = "this variable is not set in the environment"
            raise Invalid("api_key_env", self.api_key_env, limit, "export it, or say judge.api_key_env=null", "judge")
        if not (secret.isascii() and secret.isprintable()):
            limit = "the key in this variable has a line break, another control character or a character outside ASCII"
            raise Invalid("api_key_env", self.api_key_env, limit, "export the key alone, on one line", "judge")
        return secret

    def _hidden(self, text: str) -> str:
        """What a server said, without the key, should it have sent that back."""
        secret = self._secret()
        return text if secret is None or len(secret) < SHORTEST_SECRET else text.replace(secret, "***")

    def _asked(self, text: str) -> str | None:
        try:
            return self._answer(text)
        except Declined as reason:
            if self.otherwise is not None:
                return None
            limit = f"{reason}, about a text of {len(text)} characters"
            advice = "say judge.otherwise=OUTCOME for what it declines, or are judge.options and judge.model right?"
            raise Invalid("otherwise", "null", limit, advice, "judge") from reason

    def _answer(self, text: str) -> str:
        body = {**self.options, "model": self.model, "messages": [{"role": "user", "content": text}]}
        for attempt in range(self.retries + 1):
            try:
                return self._content(self._posted(json.dumps(body).encode()))
            except Unanswered as reason:
                failure = reason
            if attempt < self.retries:
                wait = self.backoff * 2**attempt if failure.wait is None else failure.wait
                time.sleep(min(wait, LONGEST_WAIT))
        raise ConnectionError(f"judge.base_url={self.base_url}: {failure}, asked {self.retries + 1} times")

    def _posted(self, body: bytes) -> str:
        address, headers = f"{self.base_url.rstrip('/')}/chat/completions", self._headers()
        try:
            request = urllib.request.Request(address, body, headers, method="POST")
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as answer:
                return self._hidden(answer.read().decode("utf-8-sig", errors="replace"))
        except urllib.error.HTTPError as error:
            with error:
                failure = self._failure(error)
        except (OSError, http.client.HTTPException) as error:
            failure = Unanswered(f"no answer ({self._hidden(str(error)) or type(error).__name__})")
        except ValueError as error:
            told = f"no request can be made of it ({type(error).__name__})"
            failure = Invalid("base_url", self.base_url, told, "does it hold letters outside ASCII?", "judge")
        raise failure  # here, where nothing hangs on it that may hold the key

    def _failure(self, error: urllib.error.HTTPError) -> Exception:
        told = f"the server answered {error.code} {self._hidden(str(error.reason))}"
        if error.code in TRANSIENT:
            return Unanswered(told, _wait(error.headers.get("Retry-After")))
        if error.code in DECLINED:
            return Declined(f"{told} ({' '.join(self._hidden(_body(error)).split())[:200]})")
        return Invalid("base_url", self.base_url, told, _advice(error.code), "judge")

    def _content(self, answer: str) -> str:
        try:
            content = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            told = f"the server's answer is not of OpenAI's form: {answer[:120]!r}"
            raise Invalid("base_url", self.base_url, told, "is the path right (often .../v1)?", "judge") from error
        return self._hidden(content) if isinstance(content, str) else ""


class Unanswered(Exception):
    """No answer this time; `wait` are the seconds that the server asks for."""

    def __init__(self, told: str, wait: float | None = None) -> None:
        super().__init__(told)
        self.wait = wait


class Declined(Exception):
    """The server will not judge this text."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection would carry the key to another host: it is an error instead."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _body(error: urllib.error.HTTPError) -> str:
    try:
        return error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as failure:
        return f"its reason cannot be read: {type(failure).__name__}"


def _require_address(address: str) -> None:
    """Raises `Invalid`: no address of a server, or one with a name or a password in it, which is not repeated."""
    parts = _split(address)
    usable = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
    if "@" in (parts.netloc if parts is not None and usable else address):
        limit = "must hold no user:password@, for it is stored with the run"
        raise Invalid("base_url", None, limit, "export the key, and name its variable in judge.api_key_env", "judge")
    if not usable:
        raise Invalid("base_url", address, "must begin with http:// or https:// and a host", component="judge")


def _split(address: str) -> SplitResult | None:
    """None where it cannot be taken apart, or its port is no number; the library's own message would repeat a password."""
    try:
        parts = urlsplit(address)
        return None if parts.port == 0 else parts
    except ValueError:
        return None


def _wait(header: str | None) -> float | None:
    """Seconds; None where the server says none, or a date."""
    return float(header) if header is not None and header.strip().isdecimal() else None


def _advice(code: int) -> str:
    known = {401: "is the key in judge.api_key_env right?", 403: "may this key use judge.model?"}
    return known.get(code, "is judge.base_url right (often .../v1), and judge.model?")
