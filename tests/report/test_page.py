"""The page around the data: one file, nothing loaded, only our scripts run, written whole."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import os
import re

import pytest

from interp_jax.report.page import base_scripts, base_styles, build_page, write_page

HOSTILE = "</title></script><script>alert(1)</script><!-- \u2028 \"'&"


class _Elements(html.parser.HTMLParser):
    """Collects every element with its attributes and the text directly inside it."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict, list[str]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))

    def handle_data(self, data):
        if self.found:
            self.found[-1][2].append(data)

    def named(self, tag):
        return [(attrs, "".join(text)) for name, attrs, text in self.found if name == tag]


def _page(**changes):
    parts = dict(
        title=HOSTILE,
        body="<main></main>",
        styles=base_styles(),
        scripts=base_scripts(),
        data={HOSTILE: [HOSTILE]},
    )
    return build_page(**{**parts, **changes})


def test_hostile_title_and_data_stay_text():
    elements = _Elements(_page())
    assert len(elements.named("script")) == 1 + len(base_scripts())
    assert elements.named("title")[0][1].strip() == HOSTILE
    data = next(text for attrs, text in elements.named("script") if attrs.get("id") == "data")
    assert json.loads(data.strip()) == {HOSTILE: [HOSTILE]}


def test_lone_surrogate_in_the_title_can_be_written(tmp_path):
    path = write_page(tmp_path / "page.html", _page(title="a\ud800b"))
    assert "<title>a?b</title>" in path.read_text(encoding="utf-8")


def test_policy_names_exactly_the_inline_code():
    elements = _Elements(_page())
    policy = next(
        attrs["content"] for attrs, _ in elements.named("meta") if "Security" in str(attrs)
    )
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for texts in (base_scripts(), base_styles()):
        for text in texts:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert policy.count("sha256-") == len(base_scripts()) + len(base_styles())


def test_nothing_is_loaded_from_elsewhere():
    page = _page()
    for name, value in re.findall(r'\b(src|href|action|srcset|poster)="([^"]*)"', page):
        assert value == "data:," or value.startswith("#"), (name, value)
    assert "@import" not in page and "url(" not in page


@pytest.mark.parametrize(
    "changes",
    [
        {"scripts": ["const a = '</script>';"]},
        {"scripts": ["// <!-- "]},
        {"styles": ["a{}</STYLE>"]},
        {"body": "<script>1</script>"},
        {"body": "<style></style>"},
    ],
)
def test_code_that_would_end_its_element_is_refused(changes):
    with pytest.raises(ValueError, match="element|script"):
        _page(**changes)


def test_a_failed_write_leaves_the_old_page_and_no_litter(tmp_path, monkeypatch):
    path = write_page(tmp_path / "new" / "page.html", "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_page(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
