"""The page at `/`, in a real Chromium: every sentence of its contract."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Browser, Page, expect  # noqa: E402

from server import REPOSITORY, Server  # noqa: E402
from support import wav  # noqa: E402
from tones import sentences  # noqa: E402
from whisperx_api_server.backends.fake import say, silence  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = REPOSITORY / "build" / "page"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="session")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Chromium's fake microphone hears, again and again."""
    file = tmp_path_factory.mktemp("microphone") / "said.wav"
    said = np.concatenate([silence(0.5), say("red door house"), silence(1.5)])
    file.write_bytes(wav(said))
    return file


@pytest.fixture(scope="session")
def browser(microphone: Path) -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}",
            ],
        )
        yield browser
        browser.close()


@contextmanager
def tab(browser: Browser, server: Server, **options: Any) -> Iterator[Page]:
    """A tab of a new user, which asks nothing of another host and logs no error of its own."""
    context = browser.new_context(base_url=server.url, reduced_motion="reduce", **options)
    asked: list[str] = []
    errors: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page = context.new_page()
    yield page
    context.close()
    ours = (server.url, f"ws{server.url[4:]}", "blob:", "data:")
    assert [url for url in asked if not url.startswith(ours)] == []
    of_answers = "Failed to load resource: the server responded"
    assert [error for error in errors if not error.startswith(of_answers)] == []


def look(page: Page, name: str) -> None:
    """Take a screenshot; axe finds nothing."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    found = Axe().run(page, options=RULES).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_docs(browser: Browser, fake_server: Server) -> None:
    with tab(browser, fake_server) as page:
        page.goto("/docs")
        expect(page.get_by_text("/v1/audio/transcriptions", exact=True).first).to_be_visible()


def test_empty(browser: Browser, fake_server: Server) -> None:
    with tab(browser, fake_server) as page:
        page.goto("/")
        expect(page.get_by_text("None yet")).to_be_visible()
        look(page, "empty")
        page.locator("#files").set_input_files(
            {"name": "kitchen talk.wav", "mimeType": "audio/wav", "buffer": sentences(2)}
        )
        page.get_by_role("link", name="kitchen talk.wav").click()
        expect(page.locator("#transcript")).to_be_visible()
        look(page, "done")
