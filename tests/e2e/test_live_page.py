"""The live page in a real Chromium, over a real server and store."""

import json
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import async_playwright, expect

from edge_agent.demo.processes import free_port
from schemas.events import EVENT_DATA
from schemas.reasons import Reason
from server.ingest.verify import AlarmKind
from tests.sample_site import open_site, serving
from tests.system import require_program

pytestmark = pytest.mark.system

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 30_000


@pytest.fixture
async def browser():
    path = require_program("chromium", "chromium")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield launched
        await launched.close()


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path / "ostiary.db") as opened:
        yield opened


@asynccontextmanager
async def viewing(browser, url, **options):
    """The page once it is live. Fails on any script error, and on any request elsewhere."""
    context = await browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    page = await context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(url) else troubles.append(asked.url),
    )
    await page.goto(url)
    await live(page)
    yield page
    assert troubles == []
    await context.close()


async def live(page):
    await expect(page.locator("#link")).to_have_class("pill live", timeout=PATIENCE_MS)


def rows(page):
    return page.locator("#events tr")


async def first_row_is(page, event):
    await expect(rows(page).first).to_have_attribute("data-id", event, timeout=PATIENCE_MS)


async def ids(page):
    return await rows(page).evaluate_all("rows => rows.map(row => row.dataset.id)")


async def test_an_empty_site_says_what_to_do(site, browser):
    async with serving(site) as url, viewing(browser, url) as page:
        await expect(page.locator("#no-events")).to_contain_text("No events yet")
        await expect(page.locator("#no-doors")).to_contain_text("No doors yet")
        await expect(page.locator("#site")).to_have_text("demo")


async def test_an_event_appears_when_it_is_committed_newest_first(site, browser):
    before = await site.add("door.opened", data={"after": "rex"})
    async with serving(site) as url, viewing(browser, url) as page:
        await first_row_is(page, before)
        added = await site.add(
            "access.denied",
            time=datetime.now(UTC),
            data={
                "card": "0102030405060708",
                "person": "mei",
                "reason": "outside_schedule",
                "latency_ms": {"decision": 3.21, "strike": None},
            },
        )
        await first_row_is(page, added)
        assert await ids(page) == [added, before]
        row = rows(page).first
        for text in ("front", "Access denied", "not at this time", "mei", "3.2 ms"):
            await expect(row).to_contain_text(text)
        await expect(row.locator("time")).to_have_attribute("title", re.compile(" UTC$"))
        assert await row.locator(".chip").count() == 0


async def test_a_late_event_is_marked_and_is_not_the_latest_access(site, browser):
    now = datetime.now(UTC)
    await site.set_door("front")
    await site.add("access.granted", data={"person": "mei"}, time=now)
    late = await site.add(
        "access.granted", data={"person": "omar"}, time=now - timedelta(hours=5), recorded=now
    )
    async with serving(site) as url, viewing(browser, url) as page:
        await first_row_is(page, late)
        await expect(rows(page).first.locator(".chip")).to_have_text("late")
        await expect(page.locator(".door .last")).to_contain_text("mei")


async def test_hostile_content_stays_text(site, browser):
    markup = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
    steering = "\u202egnp.exe\u2066\u200b\u0000\n"
    event = await site.add(
        "access.denied",
        data={"reason": markup, "person": steering, "card": markup, "detail": markup + steering},
    )
    await site.add("alarm.raised", data={"kind": "constructor", "agent": markup, "detail": markup})
    await site.add("door.mode_changed", data={"mode": "__proto__", "cause": {"a": [markup]}})
    await site.add("access.granted", data={"latency_ms": markup, "direction": "toString"})
    for broken in (b'{"data":[]}', b'{"type":7,"subject":{},"time":[],"id":null}', b"[]", b'"x"'):
        line = broken if broken.startswith(b"{") else b'{"data":%s}' % broken
        await site.add_raw(line)
    async with serving(site) as url, viewing(browser, url) as page:
        row = page.locator(f'[data-id="{event}"]')
        await expect(row).to_contain_text("<script>window.pwned=1</script>")
        await expect(row).to_contain_text("⟨U+202E⟩gnp.exe⟨U+2066⟩⟨U+200B⟩⟨U+0000⟩⟨U+000A⟩")
        assert await rows(page).count() == 8
        assert await page.evaluate("window.pwned") is None
        assert await page.locator("#events script, #events img").count() == 0
        assert "\u202e" not in await page.locator("body").inner_text()


TOLD = {
    "revocation.requested": (
        {"kind": "card", "subject": "01", "reason": "lost"},
        "card 01 lost",
    ),
    "revocation.applied": ({"sequence": 7}, "#7"),
    "revocation.overdue": ({"doors": ["front", "back"]}, "front, back"),
    "lockdown.started": ({"scope": "area", "name": "labs"}, "area labs"),
    "command.refused": ({"action": "pulse", "reason": "Expired"}, "pulse: Expired"),
    "model.changed": ({"action": "updated", "kind": "card", "id": "0102"}, "updated card 0102"),
    "policy.published": ({"policy_version": 3}, "version 3"),
    "root.applied": ({"version": 2}, "version 2"),
    "statement.rejected": ({"reason": "Rollback", "detail": "older"}, "Rollback: older"),
    "agent.offline": ({"why": "its connection broke"}, "its connection broke"),
    "certificate.applied": ({"until": "2027-01-31T07:00:00Z"}, "2027-01-31 07:00:00 UTC"),
}


async def test_what_is_no_tap_is_told_in_words_and_whatever_it_holds(site, browser):
    events = {name: await site.add(name, data=data) for name, (data, _) in TOLD.items()}
    strange = [await site.add(n, data={key: {"a": [7]} for key in d}) for n, (d, _) in TOLD.items()]
    async with serving(site) as url, viewing(browser, url) as page:
        await page.select_option("#kind-filter", "all")
        for name, (_, words) in TOLD.items():
            row = page.locator(f'[data-id="{events[name]}"]')
            await expect(row.locator(".detail")).to_have_text(words)
        assert await rows(page).count() == len(events) + len(strange)


async def test_receipts_of_many_doors_push_nothing_that_people_do_off_the_page(site, browser):
    tap = await site.add("access.denied", data={"reason": "no_rule"})
    async with serving(site) as url, viewing(browser, url) as page:
        receipts = [await site.add("revocation.applied", data={"sequence": 1}) for _ in range(1100)]
        alarm = await site.add("alarm.raised", data={"kind": "fork"})
        await first_row_is(page, alarm)
        assert await ids(page) == [alarm, tap]
        await page.select_option("#kind-filter", "routine")
        await first_row_is(page, receipts[-1])
        await page.select_option("#kind-filter", "all")
        await first_row_is(page, alarm)


async def test_the_page_says_it_is_cut_off_and_then_shows_what_it_missed(site, browser):
    await site.set_door("front", contact="closed")
    async with viewing_restarts(site, browser) as (page, server):
        before = await site.add()
        await first_row_is(page, before)
        await server.stop()
        await expect(page.locator("#link")).to_have_class("pill lost", timeout=PATIENCE_MS)
        await expect(page.locator("#link-text")).to_contain_text("Reconnecting since")
        await expect(page.locator(".door .state")).to_have_text("Unknown")
        await expect(page.locator(".door")).to_contain_text("was: Closed")
        missed = [await site.add(announce=False) for _ in range(30)]
        await server.start()
        await live(page)
        await first_row_is(page, missed[-1])
        assert await ids(page) == [*reversed(missed), before]
        await expect(page.locator(".door .state")).to_have_text("Closed")


class _Restarts:
    """A server that comes again at the address at which it was."""

    def __init__(self, site):
        self._site = site
        self.port = free_port()
        self._server = None

    async def start(self):
        self._server = serving(self._site, self.port)
        return await self._server.__aenter__()

    async def stop(self):
        server, self._server = self._server, None
        if server is not None:
            await server.__aexit__(None, None, None)


@asynccontextmanager
async def viewing_restarts(site, browser):
    server = _Restarts(site)
    url = await server.start()
    try:
        async with viewing(browser, url) as page:
            yield page, server
    finally:
        await server.stop()


async def test_another_store_at_the_same_address_begins_a_new_list(site, browser, tmp_path):
    old = await site.add()
    server = _Restarts(site)
    url = await server.start()
    async with viewing(browser, url) as page:
        await first_row_is(page, old)
        await server.stop()
        async with open_site(tmp_path / "other.db", name="other") as other:
            new = await other.add(agent="other-agent")
            async with serving(other, server.port):
                await first_row_is(page, new)
                assert await ids(page) == [new]
                await expect(page.locator("#notice")).to_contain_text("replaced")
                await expect(page.locator("#site")).to_have_text("other")


async def test_doors_show_alarms_in_words_and_never_an_unknown_door_as_closed(site, browser):
    await site.set_door("back", contact="open", alarm="forced")
    await site.set_door("front", contact="unknown", mode="unknown")
    async with serving(site) as url, viewing(browser, url) as page:
        back = page.locator('[data-door="back"]')
        await expect(back).to_contain_text("Forced open")
        await expect(back).to_have_class("door open alarm")
        await expect(page.locator('[data-door="front"] .state')).to_have_text("Unknown")
        await site.set_door("back", contact="closed")
        await site.add("door.closed", door="back")
        await expect(back.locator(".state")).to_have_text("Closed", timeout=PATIENCE_MS)
        site.state.link.connected = False
        await site.add("door.opened", door="back", data={"after": "rex"})
        await expect(back.locator(".state")).to_have_text("Unknown", timeout=PATIENCE_MS)
        await expect(page.locator("#notice")).to_contain_text("no link to the broker")


async def test_filters_and_pause_hold_back_rows_but_lose_none(site, browser):
    opened = await site.add("door.opened", data={"after": "rex"})
    denied = await site.add("access.denied", door="back", data={"reason": "no_rule"})
    async with serving(site) as url, viewing(browser, url) as page:
        await page.select_option("#door-filter", "back")
        assert await ids(page) == [denied]
        await page.select_option("#door-filter", "")
        await page.select_option("#kind-filter", "door")
        assert await ids(page) == [opened]
        await page.select_option("#kind-filter", "alarm")
        await expect(page.locator("#no-events")).to_have_text("No event matches the filter.")
        await page.select_option("#kind-filter", "")
        await page.focus("#pause")
        await page.keyboard.press("Enter")
        held = await site.add("door.closed")
        await expect(page.locator("#pause")).to_have_text("Resume (1 new)")
        assert await ids(page) == [denied, opened]
        await page.keyboard.press("Enter")
        assert await ids(page) == [held, denied, opened]


async def test_the_table_holds_two_hundred_rows_at_most(site, browser):
    for _ in range(205):
        await site.add()
    async with serving(site) as url, viewing(browser, url) as page:
        assert await rows(page).count() == 200
        newest = await site.add()
        await first_row_is(page, newest)
        assert await rows(page).count() == 200


async def test_a_screen_reader_hears_alarms_and_not_every_event(site, browser):
    async with serving(site) as url, viewing(browser, url) as page:
        announcer = page.locator("#announcer")
        for _ in range(5):
            event = await site.add()
        await first_row_is(page, event)
        await expect(announcer).to_be_empty()
        await site.add("door.forced", door="back", time=datetime.now(UTC))
        await expect(announcer).to_have_text("back, Door forced open")


async def test_the_page_speaks_chinese_and_switches_by_keyboard(site, browser):
    await site.add("access.denied", data={"reason": "unknown_card"})
    async with serving(site) as url, viewing(browser, url, locale="zh-CN") as page:
        await expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
        await expect(rows(page).first).to_contain_text("拒绝通行")
        await expect(rows(page).first).to_contain_text("未知卡")
        await page.focus("#language")
        await page.keyboard.press("Enter")
        await expect(page.locator("html")).to_have_attribute("lang", "en")
        await expect(rows(page).first).to_contain_text("Access denied unknown card")
        await page.reload()
        await live(page)
        await expect(page.locator("#doors-title")).to_have_text("Doors")


async def test_both_languages_have_the_same_words_for_every_event_reason_and_alarm(site, browser):
    async with serving(site) as url, viewing(browser, url) as page:
        tables = json.loads(await page.evaluate(_TABLES))
        for name in ("event", "reason", "alarmKind"):
            assert tables["en"][name] == tables["zh"][name]
        assert tables["en"] == tables["zh"]
        assert set(EVENT_DATA) <= set(tables["en"]["event"])
        assert {str(reason) for reason in Reason} <= set(tables["en"]["reason"])
        assert {str(kind) for kind in AlarmKind} <= set(tables["en"]["alarmKind"])


_TABLES = """async () => {
  const { words, switchLanguage } = await import("/console/i18n.js");
  const keys = (table) => Object.fromEntries(Object.entries(table).map(([name, value]) =>
    [name, value && typeof value === "object" ? Object.keys(value).sort() : typeof value]));
  const first = keys(words());
  switchLanguage();
  const second = keys(words());
  return JSON.stringify({ en: first, zh: second });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_overflows_a_phone_and_text_has_contrast(site, browser, scheme):
    await site.set_door("back", contact="open", alarm="forced", mode="unlocked")
    await site.set_door("front-door-with-a-long-name-that-has-to-break-somewhere")
    await site.add("door.forced", door="back")
    await site.add("door.held_prealarm", door="back", data={"open_s": 20})
    await site.add(
        "access.denied",
        door="back",
        recorded=datetime.now(UTC),
        data={"card": "a" * 16, "reason": "no_rule", "detail": "x" * 200},
    )
    phone = {"width": 360, "height": 740}
    async with (
        serving(site) as url,
        viewing(browser, url, viewport=phone, color_scheme=scheme) as page,
    ):
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= phone["width"]
        assert await page.evaluate(_POOR_CONTRAST) == []


# WCAG 2.2 1.4.3: 4.5 to 1 for text, against the nearest background behind it.
_POOR_CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *:not(option):not(script):not(noscript)")) {
    const texts = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
    if (!texts || !node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${node.textContent}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
