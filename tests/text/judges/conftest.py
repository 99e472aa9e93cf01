"""A local endpoint and judges that ask it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from interp_jax.text.judges.endpoint import EndpointConfig, EndpointJudge

KEY = "sk-very-secret"


def _neighbour(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake():
    """The module `fake_endpoint`: `completion`, `failure`."""
    return _neighbour("fake_endpoint")


@pytest.fixture
def endpoint(fake, monkeypatch):
    """A running local endpoint."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with fake.running() as server:
        yield server


@pytest.fixture
def make_judge(endpoint, monkeypatch):
    """`make_judge(log=..., **config)` asks the local endpoint; closed at the end."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    made = []

    def make(log=None, **config):
        settings = {"base_url": endpoint.url, "api_key_env": "JUDGE_KEY", "timeout": 5.0}
        made.append(EndpointJudge(EndpointConfig("asked-model", **settings | config), log=log))
        return made[-1]

    yield make
    for judge in made:
        judge.close()
