"""The page at `/`, in a real Chromium: what its contract says, sentence by sentence."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FilePayload, Page, Route, expect, sync_playwright

from gated import Gate
from realtime import SPEECH
from server import LOCKED_KEY, REPOSITORY, Server
from support import wav
from tones import sentences, text
from whisperx_api_server.backends.fake import say, silence
from whisperx_api_server.languages import LANGUAGES

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = REPOSITORY / "build" / "page"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
JOBS = "/v1/audio/transcriptions"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium whose microphone hears "red door house" again and again."""
    said = tmp_path_factory.mktemp("microphone") / "said.wav"
    said.write_bytes(wav(np.concatenate([silence(0.5), say("red door house"), silence(1.5)])))
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={said}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def server(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"URL_FETCH__ALLOW_PRIVATE_HOSTS": "true", "WHISPER__CHUNK_SIZE": "5"}
    settings |= gate.settings()
    with Server(tmp_path_factory.mktemp("page"), settings) as server:
        yield server
        gate.allow()


@contextmanager
def tab(browser: Browser, server: Server, **options: Any) -> Iterator[Page]:
    """A tab of a new user, which asks nothing of another host and logs no error of its own."""
    context = browser.new_context(base_url=server.url, reduced_motion="reduce", **options)
    context.set_default_timeout(30_000)
    asked: list[str] = []
    errors: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield context.new_page()
    context.close()
    ours = (server.url, f"ws{server.url[4:]}", "blob:", "data:")
    assert asked
    assert [url for url in asked if not url.startswith(ours)] == []
    of_answers = "Failed to load resource"
    assert [error for error in errors if not error.startswith(of_answers)] == []


def look(page: Page, name: str) -> None:
    """Take a screenshot; axe finds nothing, and nothing is wider than the window."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    found = Axe().run(page, options={"runOnly": TAGS}).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def file(name: str, audio: bytes) -> FilePayload:
    return {"name": name, "mimeType": "audio/wav", "buffer": audio}


def choose(page: Page, *recordings: tuple[str, bytes]) -> None:
    page.get_by_label("Choose recordings").set_input_files(
        [file(name, audio) for name, audio in recordings]
    )


def option(page: Page, name: str, value: str) -> None:
    if page.locator("#options").get_attribute("open") is None:
        page.get_by_text("Options").click()
    field = page.get_by_label(name)
    if field.evaluate("each => each.tagName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)
        field.blur()


def open_job(page: Page, name: str) -> None:
    page.get_by_role("link", name=name).first.click()


def open_result(page: Page, name: str) -> None:
    open_job(page, name)
    expect(page.get_by_role("group", name="Transcript")).to_be_visible()


def job_row(page: Page, name: str) -> Any:
    return page.get_by_role("listitem").filter(has_text=name)


# -- in ----------------------------------------------------------------------------------------


def test_recordings_are_dropped_or_chosen_and_options_are_remembered(
    browser: Browser, server: Server, gate: Gate
) -> None:
    gate.allow()
    with tab(browser, server) as page:
        page.goto("/")
        expect(page.get_by_text("None yet")).to_be_visible()
        look(page, "empty")
        languages = page.locator("select[name=language] option").evaluate_all(
            "options => options.map(each => each.value).filter(Boolean).sort()"
        )
        assert languages == sorted(LANGUAGES)
        expect(page.locator("#models option")).not_to_have_count(0)
        for name, value in (("Language", "de"), ("Prompt", "Haus"), ("Format", "srt")):
            option(page, name, value)

        files = page.evaluate_handle(
            """(audio) => {
                const bytes = Uint8Array.from(audio);
                const transfer = new DataTransfer();
                for (const name of ["one.wav", "two.wav"]) {
                    transfer.items.add(new File([bytes], name));
                }
                return transfer;
            }""",
            list(wav(say("rot haus", language="de"))),
        )
        page.dispatch_event("#drop", "drop", {"dataTransfer": files})
        choose(page, ("three.wav", sentences(1)))
        for name in ("one.wav", "two.wav", "three.wav"):
            expect(job_row(page, name)).to_contain_text("done")
        open_result(page, "one.wav")
        expect(page.get_by_role("group", name="Transcript")).to_contain_text("rot Haus.")

        page.reload()
        expect(page.get_by_role("heading", name="one.wav")).to_be_visible()
        page.get_by_role("link", name="All transcripts").click()
        page.get_by_text("Options").click()
        assert page.get_by_label("Language").input_value() == "de"
        assert page.get_by_label("Format").input_value() == "srt"
        newest = server.http.get(JOBS).json()["data"][0]
        assert server.http.get(newest["result_url"]).text.startswith("1\n00:00:00,000 -->")


def test_a_url_is_transcribed(browser: Browser, server: Server, gate: Gate, tmp_path: Path) -> None:
    gate.allow()
    (tmp_path / "radio.wav").write_bytes(sentences(1))
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    host = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=host.serve_forever, args=(0.02,), daemon=True).start()
    with tab(browser, server) as page:
        page.goto("/")
        page.get_by_label("Or a URL").fill(f"http://127.0.0.1:{host.server_port}/radio.wav")
        page.get_by_role("button", name="Transcribe", exact=True).click()
        open_result(page, "radio.wav")
        expect(page.get_by_role("group", name="Transcript")).to_contain_text(text(1))
        expect(page.get_by_text("To listen, choose the recording")).to_be_visible()
    host.shutdown()
    host.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_microphone_is_recorded(browser: Browser, server: Server, gate: Gate) -> None:
    gate.allow()
    with tab(browser, server) as page:
        page.goto("/")
        page.get_by_role("button", name="Record the microphone").click()
        expect(page.locator("#record-time")).to_have_text("0:03")
        page.get_by_role("button", name="Stop and transcribe").click()
        open_result(page, "recording")
        expect(page.get_by_role("group", name="Transcript")).to_contain_text("red door house.")


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Browser, locked_server: Server) -> None:
    with tab(browser, locked_server) as page:
        page.goto("/")
        expect(page.get_by_role("alert")).to_contain_text("API key")
        look(page, "key")
        page.get_by_label("API key").fill(LOCKED_KEY)
        page.get_by_role("button", name="Use").click()
        expect(page.get_by_label("API key")).to_be_hidden()
        expect(page.get_by_role("alert")).to_be_hidden()
        choose(page, ("locked.wav", sentences(1)))
        expect(job_row(page, "locked.wav")).to_contain_text("done")

        page.reload()
        expect(job_row(page, "locked.wav")).to_contain_text("done")
        assert LOCKED_KEY not in page.evaluate("JSON.stringify(localStorage)")
        other = page.context.new_page()
        other.goto("/")
        expect(other.get_by_label("API key")).to_be_visible()


# -- while it runs -----------------------------------------------------------------------------


def test_a_job_is_watched_and_outlives_the_tab(
    browser: Browser, server: Server, gate: Gate
) -> None:
    gate.allow(1)
    with tab(browser, server) as page:
        page.goto("/")
        choose(page, ("first.wav", sentences(4)), ("second.wav", sentences(2)))
        expect(job_row(page, "second.wav")).to_contain_text("waiting, 1 before it")
        expect(job_row(page, "first.wav")).to_contain_text("4 %, 0:")
        open_job(page, "first.wav")
        expect(page.locator("#job-text")).to_have_text(text(4).split(".")[0] + ".")
        gate.allow(1)
        expect(page.get_by_role("status").first).to_contain_text("29 %, 0:")
        expect(page.locator("#job-text")).to_have_text(text(2))
        look(page, "running")
        shifts = page.evaluate(
            """() => new Promise(resolve => new PerformanceObserver(list => resolve(
                list.getEntries().filter(each => !each.hadRecentInput)
                    .reduce((sum, each) => sum + each.value, 0),
            )).observe({type: "layout-shift", buffered: true}) || setTimeout(resolve, 500, 0))"""
        )
        assert shifts < 0.02

        context = page.context
        page.close()
        again = context.new_page()
        again.goto("/")
        expect(job_row(again, "first.wav")).to_contain_text("29 %")
        gate.allow()
        expect(job_row(again, "first.wav")).to_contain_text("done 0:20")
        open_result(again, "first.wav")
        expect(again.get_by_label("Recording", exact=True)).to_be_visible()


def test_a_job_is_cancelled_and_deleted(browser: Browser, server: Server, gate: Gate) -> None:
    gate.allow(0)
    with tab(browser, server) as page:
        page.goto("/")
        choose(page, ("unwanted.wav", sentences(2)))
        open_job(page, "unwanted.wav")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status").first).to_have_text("cancelled")
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("heading", name="Your transcripts")).to_be_visible()
        expect(job_row(page, "unwanted.wav")).to_have_count(0)
    gate.allow()


def test_errors_are_in_the_servers_own_words(browser: Browser, server: Server, gate: Gate) -> None:
    gate.allow()
    with tab(browser, server) as page:
        page.goto("/")
        choose(page, ("torn.wav", b"no audio"))
        expect(job_row(page, "torn.wav")).to_contain_text("failed: ")
        job = server.http.get(JOBS).json()["data"][0]
        expect(job_row(page, "torn.wav")).to_contain_text(job["error"]["message"])
        option(page, "Model", "../x")
        choose(page, ("refused.wav", sentences(1)))
        expect(job_row(page, "refused.wav")).to_contain_text("there is no model '../x' here")
        look(page, "error")
        page.goto(f"/#job={'0' * 32}")
        expect(page.get_by_role("alert")).to_have_text("there is no such transcription")
        page.context.set_offline(True)
        page.goto("/#")
        expect(page.get_by_role("alert")).to_have_text("The server does not answer: try again.")


def test_a_full_server_is_asked_again(browser: Browser, server: Server, gate: Gate) -> None:
    gate.allow()
    asked = []

    def full_at_first(route: Route) -> None:
        asked.append(route.request.method)
        if route.request.method == "POST" and asked.count("POST") == 1:
            error = {"error": {"message": "the queue is full"}}
            route.fulfill(status=429, json=error, headers={"retry-after": "1"})
        else:
            route.continue_()

    with tab(browser, server) as page:
        page.route(f"**{JOBS}", full_at_first)
        page.goto("/")
        choose(page, ("patient.wav", sentences(1)))
        expect(job_row(page, "patient.wav")).to_contain_text("the server is full")
        expect(job_row(page, "patient.wav")).to_contain_text("done")


# -- result ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talk(browser: Browser, server: Server, gate: Gate) -> Iterator[Page]:
    """The page with the transcript of two speakers, in which the word "black" is unsure."""
    gate.allow()
    permissions = ["clipboard-read", "clipboard-write"]
    with tab(browser, server, permissions=permissions) as page:
        page.route("**/result?response_format=verbose_json*", doubt)
        page.goto("/")
        option(page, "Speakers", "2")
        choose(page, ("our talk.wav", sentences(4, speakers=2)))
        open_result(page, "our talk.wav")
        yield page


def doubt(route: Route) -> None:
    transcript = route.fetch().json()
    for segment in transcript["segments"]:
        for word in segment["words"]:
            if word["word"].startswith("black"):
                word["score"] = 0.3
    route.fulfill(json=transcript)


def words(page: Page) -> Any:
    return page.locator("#transcript .words > span")


def test_the_word_that_plays_is_lit_and_a_click_plays_from_there(talk: Page) -> None:
    page = talk
    audio = page.locator("#audio")
    look(page, "speakers")
    page.locator("#transcript").get_by_text("white", exact=True).first.click()
    lit = page.locator("#transcript .lit")
    expect(lit).to_have_text("red.")  # the word after it
    assert audio.evaluate("each => each.currentTime") > 5.3
    box = page.locator("#waveform").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.755, box["y"] + 20)
    assert 15 <= audio.evaluate("each => each.currentTime") < 20
    audio.evaluate("each => each.pause()")
    colors = page.evaluate(
        """() => {
            const canvas = document.getElementById("waveform");
            const at = (part) => [...canvas.getContext("2d").getImageData(
                Math.floor(canvas.width * part), canvas.height / 2, 1, 1).data].join();
            return [at(0.003), at(0.253), at(0.9)];
        }"""
    )
    assert len(set(colors)) == 3  # the first speaker, the second, nobody


def test_the_keyboard_alone_suffices(talk: Page) -> None:
    page = talk
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    for wanted in ("audio", "search", "search-next", "unsure-next", "copy", "transcript"):
        assert wanted in reached, wanted
    assert "job-cancel" in reached
    page.locator("#transcript").focus()
    page.keyboard.press("ArrowLeft")
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    page.locator("#audio").evaluate("each => each.pause()")
    expect(page.locator("#transcript .lit")).to_have_text(words(page).first.inner_text())
    page.keyboard.press(" ")
    assert not page.locator("#audio").evaluate("each => each.paused")
    page.keyboard.press(" ")
    assert page.locator("#audio").evaluate("each => each.paused")


def test_words_are_searched_marked_and_copied(talk: Page) -> None:
    page = talk
    page.get_by_label("Search").fill("BLUE  white")
    expect(page.locator("#search-count")).to_have_text("1 found")
    found = page.locator("#transcript .found")
    assert found.all_inner_texts() == ["blue", "white"]
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.locator("#transcript .lit")).to_have_text("blue")
    page.locator("#audio").evaluate("each => each.pause()")
    page.get_by_label("Search").fill("")
    expect(found).to_have_count(0)

    unsure = page.locator("#transcript .unsure")
    assert set(unsure.all_inner_texts()) == {"black"}
    assert unsure.first.get_attribute("title") == "probability 30 %"
    count = unsure.count()
    page.get_by_role("button", name=f"Next unsure word ({count})").click()
    expect(page.locator("#transcript .lit")).to_have_text("black")
    page.locator("#audio").evaluate("each => each.pause()")

    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.split("\n\n")[1].startswith("SPEAKER_01: blue white red.")


def test_a_speaker_is_renamed_once_for_all(talk: Page, tmp_path: Path) -> None:
    page = talk
    page.get_by_label("Name of SPEAKER_01").fill("Ada Lovelace")
    names = page.locator("#transcript .speaker")
    assert names.all_inner_texts() == ["SPEAKER_00:", "Ada Lovelace:"] * 2
    bodies = {}
    for extension in ("srt", "vtt", "txt", "json", "aud"):
        with page.expect_download() as downloading:
            page.get_by_role("button", name=f"Download as {extension}").click()
        assert downloading.value.suggested_filename == f"our talk.{extension}"
        downloading.value.save_as(tmp_path / extension)
        bodies[extension] = (tmp_path / extension).read_text()
    for extension in ("srt", "vtt", "aud"):
        assert "[Ada Lovelace]: blue white red." in bodies[extension]
        assert "SPEAKER_01" not in bodies[extension]
    speakers = [segment["speaker"] for segment in json.loads(bodies["json"])["segments"]]
    assert speakers == ["SPEAKER_00", "Ada Lovelace"] * 2
    assert bodies["txt"].strip() == text(4)
    page.reload()
    expect(names.nth(1)).to_have_text("Ada Lovelace:")


def test_another_browser_is_asked_for_the_recording(
    talk: Page, browser: Browser, server: Server
) -> None:
    with tab(browser, server) as page:
        page.goto("/")
        open_result(page, "our talk.wav")
        page.get_by_label("To listen, choose the recording").set_input_files(
            file("x.wav", sentences(4, speakers=2))
        )
        words(page).nth(4).click()
        expect(page.locator("#transcript .lit")).to_have_text("red.")
        page.locator("#audio").evaluate("each => each.pause()")


def test_three_hours_are_laid_out_only_where_one_looks(browser: Browser, server: Server) -> None:
    job = "a" * 32
    transcript = {"duration": 10_800.0, "segments": [ten_words(at) for at in range(1000)]}
    status = {"request_id": job, "status": "completed", "filename": "long.mp3"} | {
        "submitted_at": 0,
        "duration": 10_800.0,
        "percent": 100.0,
        "eta_seconds": None,
        "queue_position": 0,
        "error": None,
    }
    with tab(browser, server) as page:
        page.route(f"**/{job}/status", lambda route: route.fulfill(json=status))
        page.route(f"**/{job}/result*", lambda route: route.fulfill(json=transcript))
        page.goto(f"/#job={job}")
        expect(words(page)).to_have_count(10_000)
        rendered = """() => [...document.querySelectorAll("#transcript .words")].filter(
            each => each.checkVisibility({contentVisibilityAuto: true})).length"""
        assert page.evaluate(rendered) < 100
        page.get_by_label("Search").fill("w990x5 w990x6")
        page.get_by_label("Search").press("Enter")
        expect(page.locator("#transcript .lit")).to_have_text("w990x5")
        expect(page.locator("#transcript .lit")).to_be_in_viewport()
        assert page.evaluate(rendered) < 100


def ten_words(place: int) -> dict[str, Any]:
    """A segment of ten words; they are all different."""
    start = 10.8 * place
    spoken = [f"w{place}x{at}" for at in range(10)]
    return {
        "start": start,
        "end": start + 10,
        "text": " " + " ".join(spoken),
        "avg_logprob": -0.1,
        "words": [
            {"word": word, "start": start + at, "end": start + at + 0.5, "score": 0.9}
            for at, word in enumerate(spoken)
        ],
    }


# -- live, looks, the API's page ---------------------------------------------------------------


def test_live_captions_are_shown_and_saved(
    browser: Browser, locked_server: Server, tmp_path: Path
) -> None:
    def hear_tones(route: Route) -> None:  # the fake detector's threshold is a loudness
        body = json.loads(route.request.post_data or "")
        body["session"]["audio"]["input"]["turn_detection"] = SPEECH["turn_detection"]
        route.continue_(post_data=json.dumps(body))

    with tab(browser, locked_server) as page:
        page.route("**/v1/realtime/client_secrets", hear_tones)
        page.goto("/")
        page.get_by_label("API key").fill(LOCKED_KEY)
        page.get_by_role("button", name="Use").click()
        page.get_by_role("button", name="Live captions").click()
        page.get_by_role("button", name="Start listening").click()
        captions = page.get_by_role("log", name="Live captions")
        expect(captions.locator("p").nth(1)).to_have_text("red door house.")
        look(page, "live")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Start listening")).to_be_visible()
        saved = {}
        for name, ending in (("Save as text", "txt"), ("Save as captions", "vtt")):
            with page.expect_download() as downloading:
                page.get_by_role("button", name=name).click()
            assert downloading.value.suggested_filename == f"captions.{ending}"
            downloading.value.save_as(tmp_path / ending)
            saved[ending] = (tmp_path / ending).read_text()
        assert saved["txt"].count("red door house.") >= 2
        assert saved["vtt"].startswith("WEBVTT\n\n00:00:0")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": {"width": 360, "height": 740}, "has_touch": True}),
    ],
)
def test_it_is_readable_in_the_dark_and_on_a_phone(
    talk: Page, browser: Browser, server: Server, name: str, options: dict[str, Any]
) -> None:
    with tab(browser, server, **options) as page:
        page.goto("/")
        expect(job_row(page, "our talk.wav")).to_contain_text("done")
        page.get_by_text("Options").click()
        look(page, f"{name}-form")
        open_result(page, "our talk.wav")
        words(page).first.click()
        look(page, name)


def test_the_api_is_described_without_another_host(browser: Browser, fake_server: Server) -> None:
    with tab(browser, fake_server) as page:
        page.goto("/docs")
        document = fake_server.http.get("/openapi.json").json()
        operations = [*document["paths"].values(), *document["webhooks"].values()]
        expect(page.locator(".opblock")).to_have_count(sum(map(len, operations)))


def test_the_page_can_run_only_what_the_server_sends(fake_server: Server) -> None:
    policy = fake_server.http.get("/").headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    assert fake_server.http.get("/page/../routers/page.py").status_code == 404
    assert fake_server.http.get("/page/nothing.js").json()["error"]["code"] == "not_found"
