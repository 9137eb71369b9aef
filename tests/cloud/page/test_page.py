"""The page in a real Chromium, with its network cut, before a real server: an analysis, the slider, the camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Route

from cloud.shelf.rollout import Rollout
from shared.bundle import Bundle
from shared.kinds.classification import ClassificationResult, ClassScore
from support.browser import Visit, chromium, visit
from support.processes import server
from support.service import png

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install -e '.[dev]'")
expect = playwright.expect
expect.set_options(timeout=60_000)

SAMPLES = Path(__file__).parents[3] / "deploy" / "samples"
ROOMS = Path(__file__).parents[3] / "deploy" / "bundles" / "rooms"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def origin(browser: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cloud with the shipped bundle and an archive. After the browser, so that it does not start in vain."""
    archive = tmp_path_factory.mktemp("page") / "archive"
    ports = ("--grpc-port", "0", "--http-port", "0")
    with server("cloud", "serve", *ports, "--bundle", ROOMS, "--archive", archive) as cloud:
        address = cloud.event("listening")["http"]
        cloud.event("ready")
        yield f"http://{address}"


@pytest.fixture
def opened(browser: object, origin: str) -> Iterator[Visit]:
    """The page, freshly opened; afterwards nothing may have left the origin, and nothing may have been refused."""
    with visit(browser, origin) as seen:  # type: ignore[arg-type]
        yield seen
        assert seen.strays == []
        assert seen.complaints == []


def send(origin: str, camera: str, *samples: str) -> None:
    """A camera's frames: an edge's way in, by HTTP."""
    for name in samples:
        data = (SAMPLES / f"{name}.png").read_bytes()
        answer = httpx.post(
            f"{origin}/analyze",
            content=data,
            headers={"X-Camera": camera, "Content-Type": "image/png"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text


def analyse(seen: Visit, name: str = "kitchen") -> None:
    seen.page.get_by_role("button", name=f"Sample: {name}").click()
    expect(seen.page.locator("#total")).to_have_text(re.compile(r"^\d"))


def painted(seen: Visit, canvas: str) -> str:
    """What a canvas shows."""
    url: str = seen.page.evaluate("id => document.getElementById(id).toDataURL()", canvas)
    return url


def test_an_analysis(opened: Visit) -> None:
    page = opened.page
    analyse(opened)
    answers = page.get_by_role("region", name="Classification")
    expect(answers.get_by_role("listitem").first).to_contain_text("kitchen")
    assert answers.get_by_role("listitem").count() == 5
    layers = set()
    for name in ("Normals", "Segmentation", "Bits"):
        page.get_by_role("radio", name=name, exact=True).check()
        layers.add(painted(opened, "stage-over"))
    assert len(layers) == 3
    expect(page.locator("#legend")).to_contain_text("bits a cell")
    page.get_by_role("radio", name="Segmentation", exact=True).check()
    classes = page.get_by_role("list", name="Classes of segmentation").get_by_role("listitem")
    expect(classes.first).to_contain_text("floor")
    page.get_by_role("radio", name="Blend").check()
    page.get_by_role("slider", name="Opacity").fill("20")
    assert page.locator("#stage-over").evaluate("e => e.style.opacity") == "0.2"
    expect(page.get_by_role("list", name="Bytes beside JPEG’s").get_by_role("listitem")).to_have_count(4)
    expect(page.locator("#times")).to_contain_text("decode")
    expect(page.locator("#analyse-live")).to_contain_text("kitchen")


def test_the_slider_encodes_anew_and_the_newest_wins(opened: Visit) -> None:
    """Every quality on the way is asked for or cancelled; what stands at the end is the answer to the last."""
    page = opened.page
    analyse(opened, "library")
    before = int(page.locator("#total").inner_text())
    slider = page.get_by_role("slider", name="Quality")
    slider.focus()
    for key in ("Home", "PageUp", "ArrowRight", "End", "Home"):
        slider.press(key)
    expect(page.locator("#analyse-live")).to_contain_text("at quality 0")
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
    assert int(page.locator("#total").inner_text()) < before
    assert page.locator("#quality-value").inner_text() == "0"
    sent = [url for url in opened.requests if "/v1/inspect" in url]
    assert re.search(r"quality=0&bundle=[0-9a-f]{8}&fitted=true$", sent[-1])


def test_a_bundle_of_another_name_gets_photographs_as_samples(opened: Visit, origin: str) -> None:
    page = opened.page
    (bundle,) = httpx.get(f"{origin}/v1/bundles", timeout=60).json()
    page.route("**/v1/bundles", lambda route: route.fulfill(json=[bundle | {"name": "photos"}]))
    page.reload()
    analyse(opened, "macaws")
    expect(page.get_by_role("list", name="Sample pictures").get_by_role("listitem")).to_have_count(4)


def test_a_file_and_what_is_none(opened: Visit, tmp_path: Path) -> None:
    page = opened.page
    text = tmp_path / "<b>notes.png"  # its name and its bytes are not to be trusted
    text.write_bytes(b"no picture")
    page.locator("#file").set_input_files(text)
    expect(page.locator("#analyse-error")).to_contain_text("not an image")
    opened.complaints.clear()  # the browser reports the refusal
    picture = tmp_path / "noise.png"
    picture.write_bytes(png(1, 256))
    page.locator("#file").set_input_files(picture)
    expect(page.locator("#total")).to_have_text(re.compile(r"^\d"))
    expect(page.locator("#analyse-error")).to_be_hidden()


def test_the_camera(opened: Visit) -> None:
    page = opened.page
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#total")).to_have_text(re.compile(r"^\d"))
    page.get_by_role("button", name="Stop the camera").click()
    expect(page.get_by_role("button", name="Use the camera")).to_be_visible()
    opened.complaints.clear()  # Chromium's fake camera may warn


def test_a_server_that_is_away_and_comes_back(opened: Visit) -> None:
    """What was shown stays, and the page says that it is from before."""
    page = opened.page
    analyse(opened)
    page.context.set_offline(True)
    expect(page.locator("#away")).to_contain_text("does not answer")
    expect(page.locator("#total")).to_be_visible()
    page.get_by_role("slider", name="Quality").press("Home")
    expect(page.locator("#analyse-error")).to_contain_text("does not answer")
    page.context.set_offline(False)
    expect(page.locator("#away")).to_be_hidden()
    expect(page.get_by_role("status").first).to_contain_text("Ready")
    opened.complaints.clear()  # failed requests, as meant


def test_the_fleet(opened: Visit) -> None:
    """Cameras appear with their answers; one of them, its frames from the archive, their maps."""
    page = opened.page
    send(opened.origin, "page-door", "kitchen", "cafe")
    send(opened.origin, "page-hall", "bedroom")
    page.get_by_role("link", name="Fleet").click()
    row = page.get_by_role("row", name=re.compile("page-door"))
    expect(row).to_be_visible()
    expect(row).to_contain_text("just now")
    page.get_by_role("searchbox", name="Search cameras").fill("HALL")
    expect(row).to_be_hidden()
    expect(page.get_by_role("row", name=re.compile("page-hall"))).to_be_visible()
    page.get_by_role("searchbox", name="Search cameras").fill("no such")
    expect(page.get_by_text("No camera found")).to_be_visible()
    page.get_by_role("searchbox", name="Search cameras").fill("")
    page.get_by_role("link", name="page-door").click()
    expect(page.get_by_role("heading", name="page-door")).to_be_visible()
    frames = page.get_by_role("list", name=re.compile("Archived frames")).locator("> li")
    expect(frames).to_have_count(2)
    expect(frames.first).to_contain_text("cafe")
    frames.first.get_by_role("button", name="Maps").click()
    expect(frames.first.get_by_role("img", name="Segmentation of the frame")).to_be_visible()
    page.get_by_role("link", name="All cameras").click()
    expect(row).to_be_visible()


def test_a_rollout(opened: Visit) -> None:
    """Both bundles side by side, and which camera is still to change over."""
    page = opened.page
    fingerprint = Bundle.open(ROOMS).manifest.fingerprint
    old, new = fingerprint, "1b" * 32
    rollout = Rollout()
    rollout.begin(new, old, "page-r*", 0.05, 10)
    rollout.wanted("page-rest", old, "no space left on the box")
    for mark in (old, old, new):
        scores = (ClassScore(label="kitchen", index=0, score=1.0),)
        results = {"classification": ClassificationResult(top=scores)}
        rollout.note("page-row", bytes.fromhex(mark)[:4], 300, 5.0, failed=False, results=results)
    send(opened.origin, "page-rest", "kitchen")
    page.get_by_role("link", name="Fleet").click()
    expect(page.get_by_role("row", name=re.compile("page-rest"))).to_be_visible()
    expect(page.get_by_role("region", name="Rollout")).to_be_hidden()
    page.route("**/admin/rollout", lambda route: route.fulfill(json=rollout.state().model_dump(mode="json")))
    card = page.get_by_role("region", name="Rollout")
    expect(card).to_contain_text(f"{new[:8]} goes to page-r*")
    expect(card.get_by_role("row", name=re.compile("rolled out"))).to_contain_text("300 B")
    expect(card.get_by_role("row", name=re.compile("classification"))).to_contain_text("100.0 %")
    expect(card).to_contain_text("page-rest: no space left on the box")
    rollout.back("too many errors")
    expect(card).to_contain_text("was taken back: too many errors")


def test_a_new_question(opened: Visit) -> None:
    """A replay from the form to its lines, and the file of them."""
    page = opened.page
    send(opened.origin, "page-ask", "kitchen", "library", "bedroom")
    page.get_by_role("link", name="Ask", exact=True).click()
    page.get_by_label("Task", exact=True).select_option("segmentation")
    page.get_by_label("Camera", exact=True).fill("page-ask")
    page.get_by_role("button", name="Last hour").click()
    page.get_by_role("button", name="Ask", exact=True).click()
    replay = page.get_by_role("region", name="Replay")
    expect(replay).to_contain_text("Done: Segmentation")
    expect(replay).to_contain_text("3 of 3 frames of page-ask")
    expect(page.get_by_role("region", name="Newest answers").get_by_role("row")).to_have_count(4)
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save all lines").click()
    assert Path(saving.value.path()).read_text("utf-8").count('"task": "segmentation"') == 3
    page.get_by_label("Camera", exact=True).fill("nobody")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#ask-error")).to_contain_text("no record of camera nobody")
    opened.complaints.clear()  # the browser reports the refusal


def test_signing_in_where_the_server_asks_for_a_token(opened: Visit) -> None:
    """The token is asked for once, kept in the tab alone, sent with every call, and forgotten on request."""
    page = opened.page

    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer s3cret-7":
            route.continue_()
        else:
            body = {"title": "Unauthorized", "detail": "this call needs a token", "status": 401}
            route.fulfill(status=401, json=body)

    page.route("**/v1/**", guard)
    page.reload()
    dialog = page.get_by_role("dialog", name="Sign in")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    page.get_by_label("Token", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#sign-in-error")).to_contain_text("does not know this token")
    page.get_by_label("Token", exact=True).fill("s3cret-7")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    analyse(opened)
    assert page.evaluate("() => Object.keys(localStorage).length") == 0
    assert "s3cret-7" not in page.content()
    assert not any("s3cret-7" in url for url in opened.requests)
    page.get_by_role("button", name="Sign out").click()
    expect(dialog).to_be_visible()
    assert page.evaluate("() => sessionStorage.length") == 0
    opened.complaints.clear()  # 401s, as meant


def test_the_keyboard_reaches_what_the_mouse_does(opened: Visit) -> None:
    page = opened.page
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("() => document.activeElement.textContent.trim() || document.activeElement.id")
        )
    assert reached[0] == "Skip to the content"
    assert {"Analyse", "file", "Use the camera"} <= set(reached)
    page.get_by_role("button", name="Sample: cafe").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#total")).to_have_text(re.compile(r"^\d"))


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window(browser: object, origin: str, width: int) -> None:
    with visit(browser, origin, width=width, dark=True) as seen:  # type: ignore[arg-type]
        analyse(seen)
        assert seen.page.evaluate("() => document.documentElement.scrollWidth") <= width
        dark = seen.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        seen.page.get_by_role("button", name=re.compile("^Colours")).click()
        light = seen.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert dark != light
