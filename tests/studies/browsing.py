"""A page in headless Chromium: starting it, and what a reader does with it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
)


@contextmanager
def chromium(profile: Path) -> Iterator:
    """A driver with an empty profile; skips where there is no browser."""
    if not (shutil.which(CHROMIUM) and shutil.which(DRIVER)):
        pytest.skip("needs chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def open_page(browser, page, hash_=""):
    browser.get("about:blank")
    browser.get(page.as_uri() + hash_)
    assert browser.execute_script("return document.documentElement.dataset.ready") == "true"


def text_of(browser, selector):
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((n) => n.innerText).join(' | ')",
        selector,
    )


def settled_text(browser, selector, before):
    """The text once it differs from `before`; a `<details>` tells of its opening a little later."""
    for _ in range(100):
        after = text_of(browser, selector)
        if after != before:
            break
        time.sleep(0.02)
    return after


def find(browser, selector):
    return browser.find_element("css selector", selector)


def actions_of(browser):
    from selenium.webdriver.common.action_chains import ActionChains

    return ActionChains(browser, duration=0)


def click(selector):
    """Scrolls to the element and clicks on what a reader would hit (a radio's label)."""

    def act(browser):
        browser.execute_script(
            "const n = document.querySelector(arguments[0]);"
            "(n.closest('label') || n).scrollIntoView({block: 'center'})",
            selector,
        )
        find(browser, selector).click()

    return act


def hover(selector):
    def act(browser):
        node = find(browser, selector)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
        actions_of(browser).move_to_element(node).perform()

    return act


def keys(*names, on=None):
    def act(browser):
        from selenium.webdriver.common.keys import Keys

        if on:
            browser.execute_script("document.querySelector(arguments[0]).focus()", on)
        for name in names:
            actions_of(browser).send_keys(getattr(Keys, name, name)).perform()

    return act


def both(*acts):
    def act(browser):
        for one in acts:
            one(browser)

    return act


def go(hash_):
    return lambda browser: browser.execute_script("location.hash = arguments[0]", hash_)


HOSTILE = (
    "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"
    "<!-- \u2028\u202e<b class=pwned>b</b>${1}`\\\"' " + "W" * 90
)
