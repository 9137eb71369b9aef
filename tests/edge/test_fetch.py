"""A bundle's edge half on its way to a box: whole or absent, whatever happens to the link, the disk and the bytes."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import io
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edge.fetch
from edge.fetch import Source, fetch
from edge.trust import check_bundle
from shared.bundle import CLOUD, EDGE, ENTROPY, EXTRACTOR, MANIFEST, Bundle
from shared.edge_half import EdgeHalf, unpack
from shared.encoder import Encoder
from shared.errors import (
    BundleDamagedError,
    CloudUnreachableError,
    IsthmusError,
    RemoteError,
    RemoteRejectedError,
    RequestError,
)
from shared.signing import sign, verify
from support.downloads import BreakingLink, serving
from support.keys import write_keys
from support.levels import write_levels
from support.processes import refused, run_here
from support.service import png, problem

HALF = (MANIFEST, EDGE, EXTRACTOR, ENTROPY)


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_levels(tmp_path_factory.mktemp("levels") / "levels")


def mark(folder: Path) -> str:
    return Bundle.open(folder).manifest.fingerprint


def packed(folder: Path) -> bytes:
    half = EdgeHalf.of(Bundle.open_without_added(folder))
    data = b"".join(half.read(0, half.size))
    assert (len(data), hashlib.sha256(data).hexdigest()) == (half.size, half.sha256)
    return data


async def fetched(address: str, fingerprint: str | None, out: Path, attempts: int = 1) -> Bundle:
    source = Source(f"http://{address}")
    return await asyncio.to_thread(fetch, source, fingerprint, out, check_bundle, attempts, lambda _: None)


def same(out: Path, bundle: Path) -> bool:
    return sorted(path.name for path in out.iterdir()) == sorted(HALF) and all(
        (out / name).read_bytes() == (bundle / name).read_bytes() for name in HALF
    )


# The file


def test_the_file_is_the_same_everywhere_and_a_tar(levels: Path, tmp_path: Path) -> None:
    other = shutil.copytree(levels, tmp_path / "other")
    os.utime(other / EDGE, (0, 0))
    (other / EDGE).chmod(0o600)
    assert packed(other) == packed(levels)
    with tarfile.open(fileobj=io.BytesIO(packed(levels))) as tar:
        assert [(m.name, m.mode, m.mtime, m.uid, m.uname) for m in tar] == [
            (name, 0o644, 0, 0, "") for name in HALF
        ]


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20))
@settings(max_examples=30, deadline=None)
def test_any_part_can_be_read(levels: Path, start: int, stop: int) -> None:
    half = EdgeHalf.of(Bundle.open_without_added(levels))
    assert b"".join(half.read(start, stop)) == packed(levels)[start:stop]


def test_a_damaged_bundle_makes_no_file(levels: Path, tmp_path: Path) -> None:
    other = shutil.copytree(levels, tmp_path / "other")
    (other / ENTROPY).write_bytes(b"no")
    with pytest.raises(BundleDamagedError, match="is not the file that the manifest lists"):
        EdgeHalf.of(Bundle.open_without_added(other))


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


EVIL = [
    tar_of((member("../evil"), b"x")),
    tar_of((member("/tmp/evil"), b"x")),
    tar_of((member("sub/manifest.json"), b"x")),
    tar_of((member("tasks"), b"x")),
    tar_of((member(MANIFEST, tarfile.SYMTYPE, "/etc/passwd"), b"")),
    tar_of((member(MANIFEST, tarfile.LNKTYPE, EDGE), b"")),
    tar_of((member(MANIFEST, tarfile.FIFOTYPE), b"")),
    tar_of((member(MANIFEST, tarfile.DIRTYPE), b"")),
    tar_of((member(MANIFEST), b"x"), (member(MANIFEST), b"y")),
    tar_of((member(MANIFEST), b"{}")),
    b"",
    b"no tar at all" * 100,
]


@pytest.mark.parametrize("data", EVIL)
def test_what_does_not_belong_in_it_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "archive").write_bytes(data)
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    with pytest.raises(BundleDamagedError, match="no edge half of a bundle"):
        unpack(tmp_path / "archive", folder)
    outside = {path.name for path in tmp_path.rglob("*")} - {"archive", "deep", "folder", MANIFEST}
    assert outside == set()
    assert not (folder / MANIFEST).is_symlink()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_file_is_an_error_by_name(
    levels: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(packed(levels))
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[at] ^= data.draw(st.integers(1, 255))
    else:
        del raw[at:]
    base = tmp_path_factory.mktemp("damaged")
    (base / "archive").write_bytes(raw)
    folder = base / "out"
    folder.mkdir()
    try:
        unpack(base / "archive", folder)
        check_bundle(folder)
    except IsthmusError:
        return
    assert same(folder, levels)  # the damage was in the padding, which nothing reads


# Over HTTP


async def test_ranges(levels: Path) -> None:
    whole = packed(levels)
    async with serving(levels) as (address, _), httpx.AsyncClient(base_url=f"http://{address}") as http:
        path = f"/bundles/{mark(levels)[:8]}/edge"
        first = await http.get(path)
        etag = first.headers["etag"]
        assert (first.content, etag) == (whole, f'"{hashlib.sha256(whole).hexdigest()}"')
        for given_range, start, stop in (("5-9", 5, 10), ("100-", 100, None), ("-7", -7, None)):
            answer = await http.get(path, headers={"Range": f"bytes={given_range}", "If-Range": etag})
            assert (answer.status_code, answer.content) == (206, whole[start:stop])
            size = len(whole)
            low, high = range(size)[start:stop][0], range(size)[start:stop][-1]
            assert answer.headers["content-range"] == f"bytes {low}-{high}/{size}"
        for headers in ({"Range": "bytes=5-9", "If-Range": '"other"'}, {"Range": "lines=1-2"}):
            answer = await http.get(path, headers=headers)
            assert (answer.status_code, len(answer.content)) == (200, len(whole))
        answer = await http.get(path, headers={"Range": f"bytes={len(whole)}-"})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(whole)}")
        head = await http.head(path)
        assert (head.headers["content-length"], head.content) == (str(len(whole)), b"")
        problem(await http.get("/bundles/00000000/edge"), 404)
        problem(await http.get("/bundles/..%2f..%2fetc/edge"), 404)
        problem(await http.get("/bundles/zz/edge"), 422)


async def test_a_box_gets_a_bundle_that_it_can_run(levels: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "bundle"
    async with serving(levels) as (address, _):
        done = await asyncio.to_thread(run_here, "edge", "fetch", "--cloud", f"http://{address}", "-o", out)
        assert (done.returncode, mark(levels) in done.stdout) == (0, True), done
        again = await asyncio.to_thread(
            lambda: refused("edge", "fetch", "--cloud", f"http://{address}", "-o", out, status=2)
        )
        assert "exists already" in again
    assert same(out, levels)
    assert not (out / CLOUD).exists()
    assert Encoder(Bundle.open(out)).encode(png(0)).data == Encoder(Bundle.open(levels)).encode(png(0)).data
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


async def test_fifty_cuts_never_leave_half_a_bundle(levels: Path, tmp_path: Path) -> None:
    """Each download is cut at a random byte, and goes on from there: what has come is not sent again."""
    rng, size = random.Random(17), len(packed(levels))
    async with serving(levels) as (address, _), BreakingLink(address).open() as link:
        for turn in range(50):
            out = tmp_path / f"bundle{turn}"
            cut = rng.randrange(1, size)
            link.left, link.passed = iter([cut]), 0
            with pytest.raises(CloudUnreachableError, match="are kept for the next time"):
                await fetched(link.address, mark(levels), out)
            assert not out.exists()
            await fetched(link.address, mark(levels), out)
            assert same(out, levels)
            assert link.passed < size + 4096  # two heads
            shutil.rmtree(out)
            assert list(tmp_path.iterdir()) == []


async def test_one_download_goes_on_after_many_cuts(levels: Path, tmp_path: Path) -> None:
    async with serving(levels) as (address, _), BreakingLink(address).open() as link:
        link.left = iter([100, 5_000, 0, 20_000, 600])
        await fetched(link.address, mark(levels), tmp_path / "bundle", attempts=6)
    assert same(tmp_path / "bundle", levels)


async def test_what_has_come_of_another_file_is_not_used(levels: Path, tmp_path: Path) -> None:
    stale = tmp_path / f".{mark(levels)}.{'0' * 64}.part"
    stale.write_bytes(b"of another time")
    wrong = tmp_path / f".{mark(levels)}.{hashlib.sha256(packed(levels)).hexdigest()}.part"
    async with serving(levels) as (address, _):
        await fetched(address, mark(levels), tmp_path / "bundle")
        assert not stale.exists()
        shutil.rmtree(tmp_path / "bundle")
        wrong.write_bytes(b"damaged on the disk")
        await fetched(address, mark(levels), tmp_path / "bundle", attempts=2)
    assert same(tmp_path / "bundle", levels)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


async def test_a_full_disk(levels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with serving(levels) as (address, _):
        for where in ("edge.fetch.os.fsync", "shared.edge_half.os.fsync", "shared.files.os.rename"):
            with monkeypatch.context() as patched:
                patched.setattr(where, full)
                with pytest.raises(RequestError, match="No space left on device; nothing was changed"):
                    await fetched(address, mark(levels), tmp_path / "bundle")
            assert not (tmp_path / "bundle").exists()
        await fetched(address, mark(levels), tmp_path / "bundle")


async def test_a_disk_without_room_for_both_copies(
    levels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 2 * len(packed(levels))
    async with serving(levels) as (address, _):
        for free, fits in ((needed - 1, False), (needed, True)):
            monkeypatch.setattr(edge.fetch.shutil, "disk_usage", lambda _, n=free: SimpleNamespace(free=n))
            if fits:
                await fetched(address, mark(levels), tmp_path / "bundle")
                continue
            with pytest.raises(
                RequestError, match=f"needs {needed} bytes, downloaded and unpacked.*make room"
            ):
                await fetched(address, mark(levels), tmp_path / "bundle")
            assert list(tmp_path.iterdir()) == []  # it did not begin


def from_one_that(monkeypatch: pytest.MonkeyPatch, *answers: httpx.Response) -> Source:
    """A cloud that gives these answers, one after the other."""
    left = list(answers)
    http = httpx.Client(transport=httpx.MockTransport(lambda _: left.pop(0)), base_url="http://cloud")
    monkeypatch.setattr(Source, "client", lambda _: http)
    return Source("http://cloud")


@pytest.mark.parametrize("span", ["bytes 0-9/10", "bytes 3-9/10", "bytes 5-9/10", "bytes 4-9/4", "none"])
def test_a_part_that_was_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, span: str) -> None:
    part = tmp_path / f".{'0' * 64}.{'a' * 64}.part"
    part.write_bytes(b"four")
    headers = {"ETag": f'"{"a" * 64}"', "Content-Range": span}
    answer = httpx.Response(206, headers=headers, stream=httpx.ByteStream(b"more"))
    source = from_one_that(monkeypatch, answer)
    with pytest.raises(RemoteError, match=r"not those from 4 that were asked for|is it an Isthmus cloud"):
        fetch(source, "0" * 64, tmp_path / "bundle", check_bundle, 1)
    assert part.exists() == (span == "none")  # else the next attempt would ask for the same again


@pytest.mark.parametrize(
    ("headers", "body", "text"),
    [
        ({}, b'[{"fingerprint": "../../../etc"}]', "lists no bundle"),
        ({}, b'[{"fingerprint": "0123456"}]', "lists no bundle"),
        ({}, b"[" * 100_000, "lists no bundle"),
        ({}, b" " * (edge.fetch.ANSWER_MAX + 1), "answers with more than 1048576 bytes"),
        ({"Content-Encoding": "gzip"}, gzip.compress(bytes(1 << 20)), "compresses its answer"),
    ],
)
def test_a_list_of_bundles_that_is_made_to_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], body: bytes, text: str
) -> None:
    source = from_one_that(monkeypatch, httpx.Response(200, headers=headers, stream=httpx.ByteStream(body)))
    with pytest.raises(RemoteError, match=text):
        fetch(source, None, tmp_path / "bundle", check_bundle, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_that_is_made_to_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = httpx.ByteStream(gzip.compress(bytes(1 << 20)))
    answer = httpx.Response(403, headers={"Content-Encoding": "gzip, gzip"}, stream=bomb)
    with pytest.raises(RemoteRejectedError, match="answers 403"):
        fetch(from_one_that(monkeypatch, answer), "0" * 8, tmp_path / "bundle", check_bundle, 1)


def wrong_file(folder: Path) -> None:
    (folder / EDGE).write_bytes(b"other networks")


async def test_a_cloud_whose_bundle_is_not_as_its_manifest_says(levels: Path, tmp_path: Path) -> None:
    own = shutil.copytree(levels, tmp_path / "own")
    async with serving(own) as (address, _):
        wrong_file(own)
        with pytest.raises(CloudUnreachableError, match="cannot be downloaded now"):
            await fetched(address, mark(levels), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("ask", "error", "text"),
    [
        (lambda a: (f"http://{a}", "0" * 8), RemoteRejectedError, "no bundle with the fingerprint 00000000"),
        (lambda a: ("http://127.0.0.1:1", None), CloudUnreachableError, "refused"),
        (lambda a: (a, None), RequestError, "begins with http"),
        (lambda a: (f"http://{a}/docs", None), RemoteRejectedError, "docs"),
    ],
)
async def test_refusals_say_why(
    levels: Path, tmp_path: Path, ask: Callable[[str], tuple[str, str | None]], error: type, text: str
) -> None:
    async with serving(levels) as (address, _):
        url, fingerprint = ask(address)
        with pytest.raises(error, match=text):
            await asyncio.to_thread(
                fetch, Source(url), fingerprint, tmp_path / "out", check_bundle, 2, lambda _: None
            )
    assert list(tmp_path.iterdir()) == []


async def test_a_wrong_key_leaves_the_box_as_it_is(levels: Path, tmp_path: Path) -> None:
    own = shutil.copytree(levels, tmp_path / "own")
    write_keys(tmp_path, "key", "pub")
    write_keys(tmp_path, "other", "other-pub")
    out = tmp_path / "out" / "bundle"
    async with serving(own) as (address, _):
        command = ("edge", "fetch", "--cloud", f"http://{address}", "-o", out, "--require-signature")
        for key, text in (("pub.pem", "is not signed"), ("absent.pem", "cannot read the key")):
            told = await asyncio.to_thread(lambda k=key: refused(*command, tmp_path / k, status=2))
            assert text in told
    sign(Bundle.open(own), tmp_path / "key.pem")
    async with serving(own) as (address, _):
        command = ("edge", "fetch", "--cloud", f"http://{address}", "-o", out, "--require-signature")
        told = await asyncio.to_thread(lambda: refused(*command, tmp_path / "other-pub.pem", status=2))
        assert "signed with another key" in told
        assert not out.exists()
        done = await asyncio.to_thread(run_here, *command, tmp_path / "pub.pem")
        assert done.returncode == 0, done
    verify(Bundle.open_without_added(out), tmp_path / "pub.pem")
