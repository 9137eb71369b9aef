"""The page's files over HTTP: whole, public, with a policy that lets nothing else in; and what stands in them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from cloud.faces.http_face import build_app
from cloud.faces.web_files import FOLDER, POLICY, read_files
from shared.errors import NotReadyError
from shared.process.config import HttpSettings
from support.service import problem

ROOT = Path(__file__).parents[3]
TEXTS = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".html", ".js", ".css", ".svg"))
SCRIPTS = [path for path in TEXTS if path.suffix == ".js"]
# The name of SVG's vocabulary, which nobody fetches.
NOT_FETCHED = "http://www.w3.org/2000/svg"


def loading() -> None:
    raise NotReadyError("the server is loading")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A cloud that has not loaded its bundle yet: the page is there from the first moment."""
    app = build_app(loading, HttpSettings())  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as client:
        yield client


async def test_the_page_and_all_that_it_names_are_there(http: httpx.AsyncClient) -> None:
    page = await http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r'(?:href|src)="(/[^"#]*)"', page.text))
    for script in SCRIPTS:
        named |= {f"/web/{name}" for name in re.findall(r'from "\./([^"]+)"', script.read_text("utf-8"))}
    assert "/web/main.js" in named
    for path in sorted(named):
        answer = await http.get(path)
        assert (path, answer.status_code) == (path, 200)
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_every_script_is_reached_from_the_page() -> None:
    reached, left = set(), ["main.js"]
    while left:
        name = left.pop()
        reached.add(name)
        found = re.findall(r'from "\./([^"]+)"', (FOLDER / name).read_text("utf-8"))
        left += [other for other in found if other not in reached]
    assert reached == {path.name for path in SCRIPTS}


async def test_the_policy_lets_nothing_else_in(http: httpx.AsyncClient) -> None:
    for path in ("/", "/web/main.js"):
        headers = (await http.get(path)).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["referrer-policy"] == "no-referrer"
    assert POLICY.startswith("default-src 'none'")
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    assert "*" not in POLICY


async def test_unchanged_files_are_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/web/style.css")
    again = await http.get("/web/style.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await http.get("/web/style.css", headers={"If-None-Match": '"other"'})).status_code == 200
    head = await http.head("/")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/web/", "/web/nothing.js", "/web/../pipeline.py", "/web/%2e%2e/pipeline.py", "/web//etc/passwd"]
)
async def test_nothing_else_is_served(http: httpx.AsyncClient, path: str) -> None:
    assert problem(await http.get(path), 404)["title"] == "Not Found"


def test_no_file_names_another_origin() -> None:
    for path in TEXTS:
        text = path.read_text("utf-8").replace(NOT_FETCHED, "")
        assert not re.search(r"https?://|//[a-z0-9.-]+\.[a-z]{2,}/|@import|url\(", text), path.name


def test_nothing_stands_in_line_and_no_text_becomes_markup() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", page)
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\(.style"
    )
    for script in SCRIPTS:
        assert not re.search(forbidden, script.read_text("utf-8")), script.name


class Fields(HTMLParser):
    """Finds the fields of a page that have no label."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.named = set(re.findall(r'<label[^>]*\bfor="([^"]+)"', page))
        self.labels, self.seen = 0, 0
        self.nameless: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.labels += tag == "label"
        if tag in ("input", "select", "textarea"):
            self.seen += 1
            given = dict(attrs)
            if not (
                self.labels
                or given.get("id") in self.named
                or given.keys() & {"aria-label", "aria-labelledby"}
            ):
                self.nameless.append(str(given))

    def handle_endtag(self, tag: str) -> None:
        self.labels -= tag == "label"


def test_every_field_of_the_page_has_a_name() -> None:
    found = Fields((FOLDER / "index.html").read_text("utf-8"))
    assert found.seen > 8
    assert found.nameless == []
    assert Fields('<input id="a"><label>b<input></label>').nameless == ["{'id': 'a'}"]


def test_the_wheel_holds_the_page() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packed = {
        path for pattern in setuptools["package-data"]["cloud"] for path in (ROOT / "cloud").glob(pattern)
    }
    files = {path for path in FOLDER.rglob("*") if path.is_file()}
    assert files <= packed
    assert len(read_files()) == len(files)
