"""The browser that pages are opened in."""

import pytest

from tests.studies.browsing import chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium; skips where there is none."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver
