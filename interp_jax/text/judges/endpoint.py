"""A judge behind an OpenAI-compatible endpoint, asked through the `openai` client."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, Literal

from interp_jax.runtime.errors import UserError
from interp_jax.text.judges.judge import Question, Reply
from interp_jax.text.judges.log import JudgeLog
from interp_jax.text.judges.logged import LoggedJudge


@dataclass(frozen=True)
class EndpointConfig:
    """Where a judge is and how it is asked. It never holds the key itself.

    Attributes:
        model: as the endpoint names it.
        base_url: up to and without `/chat/completions`.
        api_key_env: environment variable with the key; None for an endpoint that wants none.
        timeout: seconds until a silent request is given up and sent again.
        retries: how often a request is sent again after 408, 409, 429, 5xx, a timeout or a lost
            connection. The client waits as long as the service says (up to its own bound), else
            half a second, doubling up to eight.
        concurrency: requests under way at once.
        json_mode: whether the service knows the JSON-object mode; if not it is only asked in words.
        json_tries: how often a question is asked whose reply should be a JSON object and is not.
        max_tokens_name: newer services call it `max_completion_tokens`.
        send_temperature: some models refuse any temperature.
        extra: further fields of every request (a provider, a seed).
        prompt_price, completion_price: per million tokens, in any one currency; None if unknown.

    Raises:
        UserError: values that cannot be right.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = "OPENAI_API_KEY"
    timeout: float = 240.0
    retries: int = 5
    concurrency: int = 8
    json_mode: bool = True
    json_tries: int = 2
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    send_temperature: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    prompt_price: float | None = None
    completion_price: float | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise _wrong("an empty model name", "the endpoint's name of a model")
        if not self.base_url.startswith(("http://", "https://")):
            raise _wrong(f"base_url={self.base_url!r}", "an address with http:// or https://")
        for name, least in (("retries", 0), ("concurrency", 1), ("json_tries", 1)):
            if getattr(self, name) < least:
                raise _wrong(f"{name}={getattr(self, name)}", f"{least} or more")
        if not 0 < self.timeout < math.inf:
            raise _wrong(f"timeout={self.timeout}", "seconds above 0")
        prices = [p for p in (self.prompt_price, self.completion_price) if p is not None]
        if len(prices) == 1 or any(not 0 <= price < math.inf for price in prices):
            raise _wrong(
                f"prices {self.prompt_price} and {self.completion_price}",
                "both of them, 0 or more, or neither",
            )


class EndpointJudge(LoggedJudge):
    """Asks an endpoint; see `EndpointConfig` for where and how.

    Args:
        config: the endpoint.
        log: as for `LoggedJudge`. Neither it nor any error holds the key.

    Raises:
        UserError: the key's variable is not set, or the package `openai` is absent; both before
            anything is asked or written.
    """

    def __init__(
        self, config: EndpointConfig, *, log: JudgeLog | str | os.PathLike | None = None
    ):
        self.config = config
        key = _key(config)
        try:
            import openai
        except ImportError as error:
            raise UserError(
                found="no package openai",
                expected="the client that endpoints are asked through",
                do="run 'pip install \"interp_jax[endpoints]\"'",
            ) from error
        self._client = openai.OpenAI(
            api_key=key, base_url=config.base_url, timeout=config.timeout,
            max_retries=config.retries,
        )
        identity = {
            "base_url": config.base_url, "json_mode": config.json_mode,
            "send_temperature": config.send_temperature, "extra": dict(config.extra),
        }
        super().__init__(config.model, identity, log=log, json_tries=config.json_tries)

    def close(self) -> None:
        """Gives the log's file and the connections back."""
        self._client.close()
        super().close()

    def _answers(self, questions: Mapping[str, Question]) -> Iterator[tuple[str, Reply, int]]:
        over = threading.Event()

        def one(question: Question) -> tuple[Reply, int] | None:
            if over.is_set():
                return None
            try:
                return self._one(question)
            except BaseException:
                over.set()
                raise

        pool = ThreadPoolExecutor(min(self.config.concurrency, len(questions)))
        failed: BaseException | None = None
        try:
            waiting = {pool.submit(one, each): key for key, each in questions.items()}
            for done in as_completed(waiting):
                if done.exception() is not None:
                    failed = failed or done.exception()
                elif done.result() is not None:
                    # Also after another one failed: what was paid for is kept.
                    yield waiting[done], *done.result()
            if failed is not None:
                raise failed
        finally:
            over.set()
            pool.shutdown()

    def _one(self, question: Question) -> tuple[Reply, int]:
        import openai

        config = self.config
        fields: dict[str, Any] = {config.max_tokens_name: question.max_tokens}
        if config.send_temperature:
            fields["temperature"] = question.temperature
        if question.json_object and config.json_mode:
            fields["response_format"] = {"type": "json_object"}
        began = time.monotonic()
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=config.model, messages=[dict(each) for each in question.messages],
                extra_body=dict(config.extra) or None, **fields,
            )
        except openai.OpenAIError as error:
            raise _told(error, config) from error
        seconds = time.monotonic() - began
        text, finish, usage, model = _contents(raw.http_response.text, config)
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        reply = Reply(
            text, model or config.model, prompt, completion, self._cost(prompt, completion),
            seconds, False, finish,
        )
        return reply, raw.retries_taken

    def _cost(self, prompt: int | None, completion: int | None) -> float | None:
        config = self.config
        if config.prompt_price is None or prompt is None or completion is None:
            return None
        return (prompt * config.prompt_price + completion * config.completion_price) / 1e6


def _key(config: EndpointConfig) -> str:
    if config.api_key_env is None:
        return "none"  # the client wants some text
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UserError(
            found=f"no environment variable {config.api_key_env}",
            expected=f"it to hold the key for {config.base_url}",
            do="set it, name another one, or name none for an endpoint without keys",
        )
    return key


def _contents(body: str, config: EndpointConfig) -> tuple[str, str, dict[str, Any], str | None]:
    """Text, finish, usage and model of a response.

    The body is read here, since the client takes a web page for an answer. It is not asked for
    again: a body cut on its way is a lost connection, which the client sees; what is left is
    mostly a wrong address.
    """
    try:
        response = json.loads(body)
        choice = response["choices"][0]
        text = choice["message"].get("content") or choice["message"].get("refusal") or ""
        if not isinstance(text, str):
            raise TypeError("content that is no text")
        usage = response.get("usage") or {}
        counts = {name: count for name, count in usage.items() if isinstance(count, int)}
        model = response.get("model")
        finish = choice.get("finish_reason")
        return (
            text, finish if isinstance(finish, str) else "stop", counts,
            model if isinstance(model, str) else None,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            found=f"a response of {config.base_url} that is no chat completion: {body!r:.120}",
            expected="JSON with `choices`, as OpenAI-compatible endpoints send it",
            do="check the address (it often ends in /v1) and ask again; replies so far are kept",
        ) from error


def _told(error: Exception, config: EndpointConfig) -> UserError:
    """An error of the client as one sentence."""
    import openai

    where, status = config.base_url, getattr(error, "status_code", None)
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        return UserError(
            found=f"{where} refusing the key (HTTP {status})",
            expected=f"a key for {config.model} in {config.api_key_env or 'no variable'}",
            do="set the variable to a key that is valid there",
        )
    if isinstance(error, openai.NotFoundError):
        return UserError(
            found=f"nothing at {where} for model {config.model!r} (HTTP {status})",
            expected="an endpoint that has the model",
            do="check the address (it often ends in /v1) and the model's name",
        )
    if isinstance(error, openai.APITimeoutError):
        found = f"no answer from {where} within {config.timeout:g} s"
    elif isinstance(error, openai.APIConnectionError):
        found = f"no connection to {where} ({error.__cause__ or error})"
    elif status is not None and (status in (408, 409, 429) or status >= 500):
        found = f"{where} busy or failing (HTTP {status}: {_message(error)})"
    else:
        return UserError(
            found=f"{where} refusing the request (HTTP {status}: {_message(error)})",
            expected="a request that it takes",
            do="correct the settings (max_tokens_name, send_temperature, json_mode, extra)",
        )
    return UserError(
        found=f"{found}, after {config.retries} retries",
        expected="an answer",
        do="run the same again later; replies so far are kept",
    )


def _message(error: Exception) -> str:
    return str(getattr(error, "message", error))[:200]


def _wrong(found: str, expected: str) -> UserError:
    return UserError(found=found, expected=expected, do="correct the judge's settings")
