"""The endpoint judge through the real client against a real local server."""

from __future__ import annotations

import json

import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.text.judges.endpoint import EndpointConfig, EndpointJudge
from interp_jax.text.judges.judge import Question

pytest.importorskip("openai")

HELLO = [{"role": "user", "content": "Hello?"}]
SECRET = "sk-very-secret"


def question(text, **more):
    return Question(({"role": "user", "content": text},), **more)


def test_what_is_sent_and_what_comes_back(endpoint, make_judge, fake):
    endpoint.says(fake.completion('{"a": 1}', 1_000, 500))
    judge = make_judge(prompt_price=2.0, completion_price=10.0, extra={"seed": 5})
    reply = judge.ask(HELLO, json_object=True, max_tokens=77, temperature=0.5, purpose="test")
    (sent,) = endpoint.requests
    assert sent["path"] == "/v1/chat/completions" and sent["messages"] == HELLO
    assert sent["model"] == "asked-model" and sent["max_tokens"] == 77
    assert sent["temperature"] == 0.5 and sent["seed"] == 5
    assert sent["response_format"] == {"type": "json_object"}
    assert {k.lower(): v for k, v in sent["headers"].items()}["authorization"] == f"Bearer {SECRET}"
    assert reply.text == '{"a": 1}' and reply.model == "served-model-2026"
    assert (reply.prompt_tokens, reply.completion_tokens) == (1_000, 500)
    assert reply.cost == pytest.approx(0.002 + 0.005, abs=1e-12)
    assert reply.seconds > 0 and not reply.cached and reply.finish == "stop"
    assert judge.totals.asked == 1 and judge.totals.cost == reply.cost


def test_settings_that_some_services_want(endpoint, make_judge):
    judge = make_judge(
        max_tokens_name="max_completion_tokens", send_temperature=False, json_mode=False
    )
    judge.ask(HELLO, max_tokens=9)
    (sent,) = endpoint.requests
    assert sent["max_completion_tokens"] == 9
    assert not {"temperature", "max_tokens", "response_format", "seed"} & set(sent)
    assert judge.totals.cost is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_service_is_asked_again(endpoint, make_judge, fake, status):
    endpoint.says(fake.failure(status), fake.failure(status), fake.completion("at last"))
    judge = make_judge(retries=2)
    assert judge.ask(HELLO).text == "at last"
    assert len(endpoint.requests) == 3 and judge.totals.retries == 2 and judge.totals.asked == 1


def test_a_service_that_stays_busy_is_told(endpoint, make_judge, fake):
    endpoint.says(fake.failure(429, "slow down"))
    with pytest.raises(UserError, match="HTTP 429: .*slow down.*after 1 retries.*later"):
        make_judge(retries=1).ask(HELLO)
    assert len(endpoint.requests) == 2


def test_a_silent_service_is_given_up_and_asked_again(endpoint, make_judge, fake):
    endpoint.says(endpoint.stall, fake.completion("awake"))
    assert make_judge(timeout=0.3, retries=1).ask(HELLO).text == "awake"
    endpoint.says(endpoint.stall)
    with pytest.raises(UserError, match=r"no answer from .* within 0.3 s"):
        make_judge(timeout=0.3, retries=0).ask([{"role": "user", "content": "Again?"}])


@pytest.mark.parametrize("status, words", [
    (401, "refusing the key .HTTP 401.*JUDGE_KEY"),
    (403, "refusing the key .HTTP 403"),
    (404, "nothing at .*asked-model"),
    (400, "refusing the request .HTTP 400: .*settings"),
])
def test_a_refusal_is_not_repeated_and_keeps_the_key_secret(
    endpoint, make_judge, fake, tmp_path, status, words
):
    message = f"key {SECRET}" if status in (401, 403) else "no"
    endpoint.says(fake.failure(status, message))
    judge = make_judge(log=tmp_path / "log.jsonl")
    with pytest.raises(UserError, match=words) as error:
        judge.ask(HELLO)
    assert len(endpoint.requests) == 1
    assert SECRET not in str(error.value) + (tmp_path / "log.jsonl").read_text()


def test_no_connection_is_told(endpoint, make_judge):
    judge = make_judge(base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(UserError, match="no connection to http://127.0.0.1:9/v1"):
        judge.ask(HELLO)


@pytest.mark.parametrize("body", [
    "<html>Welcome</html>", '{"choices": [', "{}", '{"choices": []}', "[]", "7",
    '{"choices": [{"message": null}]}', '{"choices": [{"message": {"content": [1]}}]}',
])
def test_a_response_of_another_kind_is_refused(endpoint, make_judge, body):
    endpoint.says((200, body))
    with pytest.raises(UserError, match="no chat completion"):
        make_judge().ask(HELLO)
    assert len(endpoint.requests) == 1


def test_a_refusal_in_words_and_missing_counts(endpoint, make_judge, fake):
    refused = [{"message": {"role": "assistant", "content": None, "refusal": "I won't."}}]
    endpoint.says(fake.completion("", choices=refused, usage=None, model=None))
    judge = make_judge(prompt_price=1.0, completion_price=1.0)
    reply = judge.ask(HELLO)
    assert reply.text == "I won't." and reply.model == "asked-model"
    assert reply.prompt_tokens is reply.completion_tokens is reply.cost is None
    assert judge.totals.prompt_tokens == 0


def test_malformed_json_is_asked_again_and_paid_for(endpoint, make_judge, fake, tmp_path):
    log = tmp_path / "log.jsonl"
    endpoint.says(fake.completion("Sorry, no."), fake.completion('Here: {"a": 1}'))
    judge = make_judge(log=log, prompt_price=0.0, completion_price=1.0)
    assert judge.ask(HELLO, json_object=True).text == 'Here: {"a": 1}'
    assert judge.totals.asked == 2 and judge.totals.unusable == 1
    assert judge.totals.cost == pytest.approx(14e-6)
    assert [each["usable"] for each in judge.log.records()] == [False, True]


def test_json_that_never_comes_is_an_error_and_no_cached_reply(
    endpoint, make_judge, fake, tmp_path
):
    log = tmp_path / "log.jsonl"
    endpoint.says(fake.completion('{"a": {"b": 1}, "c', finish="length"))
    first = make_judge(log=log)
    with pytest.raises(UserError, match="2 tries, finish 'length'.*allow it more tokens"):
        first.ask(HELLO, json_object=True)
    first.close()
    endpoint.says(fake.completion("{}"))
    second = make_judge(log=log)
    assert not second.ask(HELLO, json_object=True).cached
    assert len(endpoint.requests) == 3
    assert [each["id"].rpartition(".")[2] for each in second.log.records()] == ["0", "1", "2"]


def test_many_questions_at_once_but_no_more_than_allowed(endpoint, make_judge, fake):
    endpoint.says(lambda request: fake.completion(request["messages"][0]["content"].upper()))
    endpoint.delay = 0.05
    texts = [f"q{i}" for i in range(9)] + ["q0", "q1"]
    judge = make_judge(concurrency=3)
    replies = judge.ask_many([question(text) for text in texts])
    assert [reply.text for reply in replies] == [text.upper() for text in texts]
    # Equal questions are asked once; three at a time, and really so.
    assert len(endpoint.requests) == 9 and endpoint.busiest == 3
    assert judge.ask_many([]) == []


def test_one_failure_ends_a_batch_and_keeps_what_was_answered(
    endpoint, make_judge, fake, tmp_path
):
    log = tmp_path / "log.jsonl"

    def answer(request):
        asked = request["messages"][0]["content"]
        return fake.failure(400) if asked == "q3" else fake.completion(asked)

    endpoint.says(answer)
    first = make_judge(log=log, concurrency=1)
    with pytest.raises(UserError, match="HTTP 400"):
        first.ask_many([question(f"q{i}") for i in range(30)])
    first.close()
    assert len(endpoint.requests) == 4  # the rest was not asked any more
    known = 3
    endpoint.says(fake.completion("fine"))
    second = make_judge(log=log)
    replies = second.ask_many([question(f"q{i}") for i in range(30)])
    assert sum(reply.cached for reply in replies) == known == second.totals.cached
    assert second.totals.asked == 30 - known


def test_a_second_run_asks_nothing_and_another_setting_asks_again(
    endpoint, make_judge, fake, tmp_path
):
    log = tmp_path / "log.jsonl"
    first = make_judge(log=log, prompt_price=1.0, completion_price=1.0)
    one = first.ask(HELLO, purpose="tags", prompt_version="v1")
    first.close()
    second = make_judge(log=log)
    two = second.ask(HELLO, purpose="other", prompt_version="v2")
    assert two.cached and (two.text, two.cost, two.seconds) == (one.text, one.cost, one.seconds)
    assert len(endpoint.requests) == 1 and second.totals.asked == 0 and second.totals.cost is None
    (record,) = second.log.records()
    assert record["purpose"] == "tags" and record["prompt_version"] == "v1"
    assert record["messages"] == HELLO and record["reply"]["text"] == "fine"
    assert SECRET not in log.read_text()
    second.ask(HELLO, max_tokens=3)
    second.ask(HELLO, temperature=1.0)
    second.ask([{"role": "system", "content": "Hello?"}])
    second.close()
    make_judge(log=log, extra={"seed": 1}).ask(HELLO)
    assert len(endpoint.requests) == 5


def test_without_its_key_nothing_is_done(endpoint, monkeypatch, tmp_path):
    log = tmp_path / "log.jsonl"
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for value in (None, "  "):
        if value is not None:
            monkeypatch.setenv("NO_SUCH_KEY", value)
        with pytest.raises(UserError, match="no environment variable NO_SUCH_KEY"):
            EndpointJudge(EndpointConfig("m", endpoint.url, "NO_SUCH_KEY"), log=log)
    assert not log.exists() and not endpoint.requests


def test_an_endpoint_without_keys(endpoint, make_judge):
    assert make_judge(api_key_env=None).ask(HELLO).text == "fine"


@pytest.mark.parametrize("wrong", [
    {"model": ""}, {"base_url": "localhost:8000"}, {"retries": -1}, {"concurrency": 0},
    {"json_tries": 0}, {"timeout": 0.0}, {"timeout": float("inf")}, {"prompt_price": 1.0},
    {"prompt_price": -1.0, "completion_price": 1.0},
])
def test_settings_that_cannot_be_right(wrong):
    with pytest.raises(UserError):
        EndpointConfig(**{"model": "m"} | wrong)


def test_the_log_is_plain_json_lines(endpoint, make_judge, tmp_path):
    log = tmp_path / "log.jsonl"
    make_judge(log=log).ask(HELLO)
    (line,) = log.read_text().splitlines()
    assert json.loads(line)["record"]["settings"] == {
        "json_object": False, "max_tokens": 1024, "temperature": 0.0,
    }
