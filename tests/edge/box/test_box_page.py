"""The page of a real box in a real Chromium: a card for each camera, a dead one named, all of it by the keyboard."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx

from support.browser import chromium, visit
from support.processes import server
from support.videos import scene, write_video

LIMIT_S = 90.0


def wait_until_seen(url: str) -> None:
    """Until the clip has a frame, and what is wrong with the dead camera is known."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        sources: dict[str, Any] = httpx.get(f"{url}/status", timeout=30).json()["sources"]
        if sources["clip"]["accepted"] and sources["dead"]["trouble"]:
            return
        threading.Event().wait(0.05)
    raise AssertionError(sources)


def test_every_camera_has_its_card(tmp_path: Path, tiny_bundle: Path) -> None:
    clip = write_video(tmp_path / "clip.mkv", scene(20), 10)
    (tmp_path / "in").mkdir()
    config = tmp_path / "box.toml"
    config.write_text(
        f'[cloud]\naddress = "127.0.0.1:9"\n[http]\nport = 0\n[spool]\nfolder = "{tmp_path / "spool"}"\n'
        f'[sources.clip]\nkind = "video"\nurl = "{clip}"\nloop = true\n'
        '[sources.dead]\nkind = "rtsp"\nurl = "rtsp://user:secret@127.0.0.1:1/x"\n'
        f'[sources.inbox]\nkind = "folder"\nurl = "{tmp_path / "in"}"\n'
    )
    with chromium() as browser, server("edge", "run", "--config", config, "--bundle", tiny_bundle) as box:
        url = f"http://{box.event('listening')['http']}"
        box.event("ready")
        wait_until_seen(url)
        with visit(browser, url, width=320) as seen:
            page = seen.page
            assert page.evaluate("document.documentElement.scrollWidth") <= 320
            # By the keyboard alone: first to the page that stands still, then to every card.
            page.keyboard.press("Tab")
            with page.expect_navigation():
                page.keyboard.press("Enter")
            assert page.url == f"{url}/?still=1"
            reached = []
            for _ in range(6):
                page.keyboard.press("Tab")
                reached.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
            assert reached[1:] == ["clip", "dead", "inbox", "Link", "Spool"]
            dead = page.get_by_label("dead", exact=True)
            assert "refused" in (dead.locator(".trouble").text_content() or "")
            assert "secret" not in page.content()
            assert page.get_by_label("Link", exact=True).locator(".trouble").text_content()
            picture = page.get_by_role("img", name="Last image of clip")
            assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") == 64
            seen.shot(tmp_path / "page.png")
        assert (seen.strays, seen.complaints) == ([], [])
