"""The page of a comparison in a real browser: every head sorts, nothing is asked of a network, nothing overflows."""

import os
import shutil
from itertools import pairwise

import pytest

from pyrovae.__main__ import main

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (nox -s slow installs it)")

CHROMIUM = os.environ.get("PYROVAE_BROWSER") or next(
    filter(None, map(shutil.which, ("google-chrome", "chromium", "chromium-browser", "chrome"))), None
)
GRID = ["--guides", "diagonal-normal,iaf,planar", "--gaps", "50", "--seeds", "2", "--epochs", "2", "--particles", "3"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    assert main(["compare", "--root", str(root), *GRID]) == 0
    return root / "report.html"


@pytest.fixture
def page(report):
    """The page opened; it ends with no message and no request but that for the file itself."""
    if not CHROMIUM:
        pytest.skip("needs Chromium or Chrome: on the PATH, or named by PYROVAE_BROWSER")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.step_async(executable_path=CHROMIUM)
        page = browser.new_page()
        asked, told = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(report.as_uri())
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert told == []


@pytest.mark.slow
def test_every_head_sorts_by_its_numbers_up_and_down(page):
    table = page.locator("table").first
    heads = table.locator("thead button")
    assert heads.count() >= 8
    for column in range(1, heads.count()):
        orders = []
        for _ in range(2):
            heads.nth(column).click()
            cells = table.locator(f"tbody td:nth-of-type({column + 1})")
            orders.append(cells.evaluate_all("cells => cells.map(cell => Number(cell.dataset.value))"))
        up, down = orders
        assert len(up) == 3
        assert all(a <= b for a, b in pairwise(up))
        assert down == up[::-1] or len(set(up)) < 3
        assert all(a >= b for a, b in pairwise(down))


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_fits_and_its_pictures_are_whole(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pictures = page.locator("img")
    assert pictures.count() >= 8
    assert pictures.evaluate_all("all => all.filter(each => !each.naturalWidth || !each.alt).length") == 0
