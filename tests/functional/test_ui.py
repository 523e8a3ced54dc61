# SPDX-License-Identifier: Apache-2.0
"""The page people look at, in a real browser, on a real daemon."""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from fisk_core.dataplane.client import NbdClient
from fisk_core.engine import Engine
from fisk_core.jobs import Runner
from tests.browsers import Browser, browser, needs_browser
from tests.fiskds import Fiskd, running

MIB = 1 << 20
MARKUP = "<img src=x onerror=window.broken=1>"
CANVAS = "#forest-canvas"
pytestmark = needs_browser


@dataclass
class Page:
    """A browser on the page of a daemon."""

    browser: Browser
    fiskd: Fiskd
    secrets: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.fiskd.port}/ui/"

    def sign_in(self, role: str = "reader", view: str = "forest") -> Browser:
        """Open a view as somebody of that role, from the form."""
        found = self.browser
        found.open("about:blank")  # the next address is a new page, not a jump within one
        found.open(f"{self.url}#{view}")
        found.run("sessionStorage.clear(); location.reload()")
        found.one("#token").send_keys(self.secrets[role], Keys.ENTER)
        found.one(f"main[data-view={view}]")
        return found

    def item(self, name: str) -> None:
        """Select a Fisk by searching for it."""
        search = self.browser.one("#search")
        search.clear()
        search.send_keys(name, Keys.ENTER)
        self.browser.until(lambda: self.browser.text("#details h2") == name)


def ask(fiskd: Fiskd, method: str, path: str, body: Any = None) -> Any:
    """Ask the daemon as an administrator; gives the answer."""
    data = json.dumps(body).encode() if body is not None else None
    status, _, answer = fiskd.request(method, f"/v1{path}", data, {"content-type": "application/json"})
    assert status < 300, answer
    return json.loads(answer) if answer else None


def seed(home: Path) -> None:
    """Make an image with a bush of clones, and a volume with a long life."""
    with Engine.open(home) as engine:
        engine.create("image", MIB, role="image")
        engine.set("image", frozen=True)
        engine.clone("image", "web", count=200)
        engine.create("db", 4 * MIB, attributes={MARKUP: f"{MARKUP} & so on"})
        for number in range(30):
            if number < 3:
                with engine.open_disk("db", writable=True) as disk:
                    disk.write(number * MIB, b"x" * (MIB // 2))
            engine.snapshot("db", f"db-{number}")
        engine.clone("db-7", "fork")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with tempfile.TemporaryDirectory(prefix="fisk-") as directory, browser() as chromium:
        seed(Path(directory))
        with running(Path(directory), api={"listen": "127.0.0.1:0"}) as fiskd:
            secrets = {
                role: ask(fiskd, "POST", "/tokens", {"name": role, "role": role})["secret"]
                for role in ("reader", "operator")
            }
            yield Page(chromium, fiskd, secrets)


# Coming in


def test_the_page_is_sent_with_a_policy_that_lets_nothing_else_in(page):
    status, headers, body = page.fiskd.request("GET", "/ui/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert b"http://" not in body
    assert b"https://" not in body


def test_the_slash_may_be_left_out(page):
    page.browser.open(page.url.removesuffix("/"))
    page.browser.until(lambda: page.browser.run("return location.pathname") == "/ui/")
    page.browser.complaints()


def test_nothing_but_its_files_is_served(page):
    for path in ("/ui/../__init__.py", "/ui/%2e%2e/__init__.py", "/ui/js/", "/ui/nothing"):
        assert page.fiskd.request("GET", path)[0] in (400, 404)


def test_an_unknown_token_is_refused_and_forgotten(page):
    found = page.browser
    found.open(page.url)
    found.run("sessionStorage.clear(); location.reload()")
    found.one("#token").send_keys("fisk_wrong", Keys.ENTER)
    found.shows("#trouble", "not known")
    assert found.run("return sessionStorage.length") == 0
    found.complaints()  # the browser itself tells of each 401


def test_no_view_makes_the_console_complain(page):
    found = page.sign_in()
    found.complaints()  # of the 401 before
    for view in ("forest", "activity", "pools", "jobs", "events"):
        found.run("location.hash = arguments[0]", f"#{view}")
        found.one(f"main[data-view={view}]")
    found.shows("#live", "Live")
    found.driver.refresh()  # still signed in
    found.one("main[data-view=events]")
    assert found.complaints() == []


def test_signing_out_forgets_the_token(page):
    found = page.sign_in()
    found.one("#sign-out").click()
    found.one("#token")
    assert found.run("return sessionStorage.length") == 0
    found.complaints()


# The forest


def test_forest_shows_what_there_is(page):
    found = page.sign_in()
    found.shows("#counted", "233 Fisks", "202 live, 31 frozen", "0 attached")
    # the image, its bush, and the life of the volume with the fork
    found.until(lambda: found.one(CANVAS).get_attribute("data-items") == str(1 + 1 + 31 + 1))


def test_a_bush_unfolds_and_folds_with_the_keyboard(page):
    found = page.sign_in()
    canvas = found.one(CANVAS)
    found.until(lambda: canvas.get_attribute("data-items"))
    found.run("arguments[0].focus()", canvas)
    canvas.send_keys(Keys.HOME, Keys.ARROW_DOWN)
    found.shows("#details h2", "200 volumes")
    drawn = canvas.get_attribute("data-drawn")
    canvas.send_keys(Keys.ENTER)
    found.shows("#details h2", "200 Fisks")
    found.until(lambda: int(canvas.get_attribute("data-drawn")) > int(drawn) + 150)
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    found.shows("#details h2", "web-")
    found.run("arguments[0].focus()", canvas)
    canvas.send_keys(Keys.HOME, Keys.ARROW_DOWN, Keys.ENTER)
    found.shows("#details h2", "200 volumes")


def test_coming_back_to_the_forest_finds_it_as_it_was(page):
    found = page.sign_in()
    page.item("web-77")
    drawn = found.until(lambda: int(found.one(CANVAS).get_attribute("data-items")))
    found.run("location.hash = '#pools'")
    found.one("main[data-view=pools]")
    found.run("location.hash = '#forest'")
    found.shows("#details h2", "web-77")
    found.until(lambda: int(found.one(CANVAS).get_attribute("data-drawn")) > drawn)


def test_search_finds_within_a_folded_bush(page):
    found = page.sign_in()
    page.item("web-123")
    found.shows("#matched", "1 match")
    found.shows("#details", "Made from", "image")
    found.one("#details button.link").click()  # to what it was made from
    found.shows("#details h2", "image")
    found.shows("#details", "200 Fisks made from it")


def test_a_bush_lists_its_members(page):
    found = page.sign_in()
    canvas = found.one(CANVAS)
    found.until(lambda: canvas.get_attribute("data-items"))
    canvas.send_keys(Keys.HOME, Keys.ARROW_DOWN)
    found.one("#details input").send_keys("web-19")
    assert found.until(lambda: [each.text for each in found.all("#details li")])[0] == "web-19"
    found.all("#details li button")[0].click()
    found.until(lambda: found.text("#details h2") == "web-19")


def test_markup_in_names_and_attributes_is_text(page):
    found = page.sign_in()
    page.item("db")
    found.shows("#details", MARKUP, f"{MARKUP} & so on")
    assert found.all("main img, header img[src=x]") == []
    assert found.run("return window.broken") is None


def test_map_tells_where_blocks_live(page):
    found = page.sign_in()
    page.item("db")
    found.shows("#details .told", "37.5 % of 4 MiB has data")
    cells = found.one("#details .cells")
    assert "in 3 layers" in cells.get_attribute("aria-label")
    cells.send_keys(Keys.ARROW_RIGHT)
    found.shows("#details .told", "From 0 B: 100.0 % layer 1")


def test_a_new_fisk_appears_by_itself(page):
    found = page.sign_in(view="events")
    found.shows("#live", "Live")
    ask(page.fiskd, "POST", "/fisks", {"name": "fresh", "size": MIB})
    found.one("tr[data-kind='fisk.created'] button.link").click()
    found.shows("#counted", "234 Fisks")
    found.shows("#details h2", "fresh")
    ask(page.fiskd, "DELETE", "/fisks/fresh")
    found.shows("#counted", "233 Fisks")


# Under load


def test_a_load_shows_in_the_plots(page):
    attachment = ask(page.fiskd, "POST", "/fisks/fork/attachments", {"consumer": MARKUP})
    found = page.sign_in(view="activity")
    found.shows("#plotted", "All 1 attached")
    with NbdClient.connect(attachment["uris"][0]) as client:

        def written() -> bool:
            for _ in range(50):
                client.write(0, b"y" * 4096)
            shown = found.text(".plots figure:last-child .legend")
            return re.search(r"write p50 [0-9.]+ (µs|ms)write p99 [0-9.]+ (µs|ms)", shown) is not None

        assert found.until(written)
    figures = [each.text for each in found.all("tbody tr:last-child > *")]
    assert figures[0] == "fork"
    assert float(figures[4].removesuffix(" MB/s")) > 0
    found.run("location.hash = '#forest'")
    found.shows("#counted", "1 attached")
    page.item("fork")
    found.shows("#details .attachments", "nbd on", f"for {MARKUP}")
    ask(page.fiskd, "DELETE", f"/attachments/{attachment['id']}")
    found.shows("#counted", "0 attached")


def test_latencies_come_out_of_the_histograms(page):
    found = page.sign_in()
    measured = found.driver.execute_async_script(
        """
        const done = arguments[0];
        import("/ui/js/rates.js").then(({percentile, difference}) => {
          const metrics = (reads, counts) => ({reads, writes: 0, read_bytes: 0, write_bytes: 0, queue: 0,
            connections: 1, latency: {bounds: [1, 2, 4], read: counts, write: [0, 0, 0, 0]}});
          const delta = difference(metrics(10, [10, 0, 0, 0]), metrics(30, [20, 10, 0, 0]));
          const anew = difference(metrics(10, [10, 0, 0, 0]), metrics(3, [3, 0, 0, 0]));
          const half = percentile(delta.bounds, delta.read.counts, 0.5);
          const most = percentile(delta.bounds, delta.read.counts, 0.99);
          const beyond = percentile([1, 2, 4], [0, 0, 0, 7], 0.5);
          done([delta.read.operations, half, most, beyond, percentile([1], [0, 0], 0.5), anew]);
        });
        """
    )
    assert measured == [20, 1, pytest.approx(1.98), 4, None, None]


def test_pools_show_fill_and_mark(page):
    found = page.sign_in(view="pools")
    found.shows("[aria-label='Pool default']", "of 233 Fisks", "90 %")
    assert "layers" in found.one(".fill").get_attribute("aria-label")


# Jobs


@pytest.fixture
def job(page):
    """A job that waits for ever: the host it is for does not run."""
    with Engine.open(page.fiskd.home) as engine:
        elsewhere = Runner(engine, "elsewhere")
        submitted = elsewhere.submit("check", {})
        yield lambda: elsewhere.get(submitted.id).state.value
        elsewhere.cancel(submitted.id)


def test_an_operator_cancels_a_job(page, job):
    found = page.sign_in("operator", "jobs")
    found.one("tr[data-state=queued] button.cancel").click()
    found.one("tr[data-state=cancelled]")
    assert job() == "cancelled"


def test_a_reader_cannot_cancel_a_job(page, job):
    found = page.sign_in("reader", "jobs")
    row = found.one("tr[data-state=queued]")
    assert found.all("button.cancel") == []
    status = found.run(
        "return fetch(`/v1/jobs/${arguments[0]}`, {method: 'DELETE', headers: {authorization: "
        "`Bearer ${sessionStorage.getItem('fisk-token')}`}}).then(answer => answer.status)",
        row.get_attribute("data-job"),
    )
    assert status == 403
    assert job() == "queued"
    found.complaints()


# Small screens


def test_a_narrow_screen_does_not_scroll_sideways(page):
    found = page.sign_in()
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    found.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for view in ("forest", "activity", "pools", "jobs", "events"):
            found.run("location.hash = arguments[0]", f"#{view}")
            found.one(f"main[data-view={view}]")
            assert found.run("return document.documentElement.scrollWidth") == 360
    finally:
        found.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
