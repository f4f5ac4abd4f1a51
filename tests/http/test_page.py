"""The page at `/`, in a real Chromium: recordings go in, jobs are watched, speech is captioned."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from browser import choose, job_row, look, open_job, open_result, option, tab
from gated import Gate
from live import PATH as JOBS
from realtime import SPEECH
from server import LOCKED_KEY, Server
from support import wav
from tones import sentences, text
from whisperx_api_server.backends.fake import say
from whisperx_api_server.languages import LANGUAGES

COUNT_SHIFTS = """() => {
    globalThis.shifts = 0;
    new PerformanceObserver((list) => {
        for (const each of list.getEntries()) if (!each.hadRecentInput) shifts += each.value;
    }).observe({type: "layout-shift"});
}"""
"""From then on, `shifts` is how far the layout has jumped, as Chromium measures it."""

COUNT_ANNOUNCEMENTS = """() => {
    globalThis.announced = 0;
    new MutationObserver((changes) => { announced += changes.length; })
        .observe(document.getElementById("error"), {childList: true});
}"""
"""From then on, `announced` is how many times a text was written into the alert."""


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


# -- in ----------------------------------------------------------------------------------------


def test_recordings_are_dropped_or_chosen_and_options_are_remembered(
    browser: Browser, server: Server, gate: Gate
) -> None:
    gate.allow()
    with tab(browser, server) as page:
        page.goto("/")
        expect(page.get_by_text("None yet")).to_be_visible()
        look(page, "empty")
        reached = []
        for _ in range(9):  # the last is the summary of the options
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id"))
        assert [each for each in reached if each] == ["files", "record", "live-open", "url"]
        page.keyboard.press("Enter")
        expect(page.get_by_label("Language")).to_be_visible()
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
        expect(page.get_by_label("Recording", exact=True)).to_be_visible()
        look(page, "done")

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
        look(page, "choose-recording")
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
    late: list[Route] = []

    def hold_without_key(route: Route) -> None:
        if "authorization" in route.request.headers:
            route.continue_()
        else:
            late.append(route)

    with tab(browser, locked_server) as page:
        page.route("**/v1/models", hold_without_key)
        page.goto("/")
        expect(page.get_by_role("alert")).to_contain_text("API key")
        look(page, "key")
        page.get_by_label("API key").fill(LOCKED_KEY)
        page.get_by_role("button", name="Use").click()
        expect(page.get_by_label("API key")).to_be_hidden()
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator("#models option")).not_to_have_count(0)
        with page.expect_response(lambda answer: answer.url.endswith("/v1/models") and answer.ok):
            late[0].continue_()  # its answer is 401
        expect(page.get_by_label("API key")).to_be_hidden()
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
        page.evaluate(COUNT_SHIFTS)
        expect(job_row(page, "second.wav")).to_contain_text("waiting, 1 before it")
        expect(job_row(page, "first.wav")).to_contain_text("4 %, 0:")
        open_job(page, "first.wav")
        expect(page.locator("#job-text")).to_have_text(text(4).split(".")[0] + ".")
        gate.allow(1)
        expect(page.get_by_role("status").first).to_contain_text("29 %, 0:")
        expect(page.locator("#job-text")).to_have_text(text(2))
        look(page, "running")
        assert page.evaluate("shifts") < 0.01

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
    late: list[tuple[Route, httpx.Response]] = []
    gate.allow(0)
    with tab(browser, server) as page:
        page.goto("/")
        choose(page, ("unwanted.wav", sentences(2)))
        open_job(page, "unwanted.wav")
        page.route(
            f"**{JOBS}/*",
            lambda route: late.append((route, server.http.delete(route.request.url))),
            times=1,
        )
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status").first).to_have_text("cancelled")
        look(page, "cancelled")
        [(route, answer)] = late
        with page.expect_response(route.request.url):
            route.fulfill(json=answer.json())  # after the job's last event
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
        page.get_by_role("link", name="All transcripts").click()
        open_job(page, "torn.wav")
        expect(page.get_by_role("status").first).to_contain_text(job["error"]["message"])
        look(page, "failed")


def test_a_server_that_is_away_is_announced_once(browser: Browser, server: Server) -> None:
    with tab(browser, server) as page:
        page.goto(f"/#job={'0' * 32}")
        alert = page.get_by_role("alert")
        expect(alert).to_be_visible()
        expect(page.locator("#models option")).not_to_have_count(0)
        page.evaluate(COUNT_ANNOUNCEMENTS)
        page.context.set_offline(True)
        page.get_by_role("link", name="All transcripts").click()
        expect(alert).to_have_text("The server does not answer: try again.")
        for _ in range(2):
            page.wait_for_event("requestfailed")  # it was asked again
        assert page.evaluate("announced") == 1
        page.context.set_offline(False)
        expect(alert).to_be_hidden()


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
        expect(page.locator("li[data-upload]")).to_contain_text("the server is full")
        expect(job_row(page, "patient.wav")).to_contain_text("done")


def test_any_number_of_jobs_is_listed(browser: Browser, server: Server, gate: Gate) -> None:
    gate.allow(0)
    names = [f"many-{place:02}.wav" for place in range(60)]
    with tab(browser, server) as page:
        page.goto("/")
        choose(page, *((name, wav(say("red door"))) for name in names))
        rows = page.locator("li[data-status]")
        many = rows.filter(has_text="many-")
        expect(many).to_have_count(60)
        expect(many.filter(has_text="done")).to_have_count(0)
        gate.allow()
        expect(many.filter(has_text="done")).to_have_count(60)

        page.reload()
        expect(rows).to_have_count(50)
        listed = server.http.get(JOBS, params={"limit": "100"}).json()
        assert not listed["has_more"]
        jobs = listed["data"]
        server.http.delete(f"{JOBS}/{jobs[49]['request_id']}").raise_for_status()
        page.get_by_role("button", name="Show more").click()
        expect(rows).to_have_count(len(jobs) - 1)
        expect(page.get_by_role("button", name="Show more")).to_be_hidden()
        expect(page.get_by_role("alert")).to_be_hidden()
        open_job(page, names[-1])
        page.get_by_role("button", name="Delete").click()
        expect(rows).to_have_count(len(jobs) - 2)
        expect(job_row(page, names[-1])).to_have_count(0)


# -- live ------------------------------------------------------------------------------------


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
        size = "each => parseFloat(getComputedStyle(each).fontSize)"
        assert captions.evaluate(size) >= 1.5 * page.locator("body").evaluate(size)
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
