"""A judge behind an HTTP interface of OpenAI's form (`/chat/completions`), wherever it is served."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from testbed.api import Invalid
from testbed.judge.template import Speaking

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_WAIT = 60.0


@dataclass(frozen=True, kw_only=True)
class OpenaiCompatible(Speaking):
    """`model` at `base_url` is shown the template as a user's turn, with `options` (temperature, max_tokens, ...) beside it.

    The key is read from the environment variable `api_key_env` when it is needed, and is kept nowhere; None sends none.
    Busy or failing servers are asked again `retries` times, after `backoff` x 2^i seconds or what they say themselves;
    `concurrency` questions are asked at a time. What is judged leaves this machine, unless the server is on it.
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
        """Raises `Invalid`: no address, no key where one is named, numbers that cannot be."""
        super().check(resources)
        if urlsplit(self.base_url).scheme not in ("http", "https") or not urlsplit(self.base_url).hostname:
            raise Invalid("base_url", self.base_url, "must begin with http:// or https:// and a host", component="judge")
        for name, least in (("timeout", 0.001), ("retries", 0), ("backoff", 0), ("concurrency", 1)):
            if getattr(self, name) < least:
                raise Invalid(name, getattr(self, name), f"must be at least {least}", component="judge")
        self._headers()

    def said(self, texts: Sequence[str]) -> list[str]:
        """Raises ConnectionError where the server does not answer, however often it is asked."""
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                return list(pool.map(self._asked, texts))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # one failure is enough: ask no more
                raise

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key_env is None:
            return headers
        secret = os.environ.get(self.api_key_env, "").strip()
        if not secret:
            limit = "this variable is not set in the environment"
            raise Invalid("api_key_env", self.api_key_env, limit, "export it, or say judge.api_key_env=null", "judge")
        return {**headers, "Authorization": f"Bearer {secret}"}

    def _asked(self, text: str) -> str:
        body = {**self.options, "model": self.model, "messages": [{"role": "user", "content": text}]}
        for attempt in range(self.retries + 1):
            try:
                return self._content(self._posted(json.dumps(body).encode()))
            except Unanswered as reason:
                failure = reason
            if attempt < self.retries:
                time.sleep(min(failure.wait or self.backoff * 2**attempt, LONGEST_WAIT))
        raise ConnectionError(f"judge.base_url={self.base_url}: {failure}, asked {self.retries + 1} times")

    def _posted(self, body: bytes) -> bytes:
        address = f"{self.base_url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, body, self._headers(), method="POST")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                told = f"the server answered {error.code} {error.reason}"
                if error.code in TRANSIENT:
                    raise Unanswered(told, _wait(error.headers.get("Retry-After"))) from error
                raise Invalid("base_url", self.base_url, told, _advice(error.code), "judge") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"no answer ({error or type(error).__name__})") from error

    def _content(self, answer: bytes) -> str:
        try:
            content = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            told = f"the server's answer is not of OpenAI's form: {answer[:120]!r}"
            raise Invalid("base_url", self.base_url, told, "is the path right (often .../v1)?", "judge") from error
        return content if isinstance(content, str) else ""


class Unanswered(Exception):
    """No answer this time; `wait` are the seconds that the server asks for."""

    def __init__(self, told: str, wait: float | None = None) -> None:
        super().__init__(told)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection would carry the key to another host: it is an error instead."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _wait(header: str | None) -> float | None:
    """Seconds; None where the server says none, or a date."""
    return float(header) if header is not None and header.strip().isdigit() else None


def _advice(code: int) -> str:
    known = {401: "is the key in judge.api_key_env right?", 403: "may this key use judge.model?"}
    return known.get(code, "is judge.base_url right (often .../v1), and judge.model?")
