"""A bundle that is sound opens; each way to damage one has its own line, and names the file."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from shared.bundle import CLOUD, EDGE, ENTROPY, EXTRACTOR, FILES, MANIFEST, Bundle
from shared.codec.latent_codec import LatentCodec, fingerprint
from shared.errors import BundleDamagedError, BundleError, BundleNotFoundError, RequestError, UnknownTaskError
from shared.sealed import seal
from shared.shipped import default_bundle, find_bundle
from support.random_codec import Tensors, random_tensors

ONE_LEVEL = random_tensors(3)
TENSORS = random_tensors(3, qualities=(3, 7))


def manifest(contents: dict[str, bytes]) -> dict[str, Any]:
    return {
        "format": 2,
        "name": "test-1.0",
        "created": "2026-11-22T00:00:00Z",
        "fingerprint": fingerprint(TENSORS).hex(),
        "preprocess": {"height": 64, "width": 64},
        "codec": {},
        "qualities": [{"quality": 3, "lambda": 0.5}, {"quality": 7, "lambda": 2}],
        "tasks": [
            {
                "name": "rooms",
                "kind": "classification",
                "labels": ["kitchen", "cellar"],
                "network": "reference",
                "network_config": {"stride": 16},
                "split": 4,
                "feature": [8, 4, 4],
            }
        ],
        "training": {},
        "figures": {},
        "licences": {},
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in contents.items()
        },
    }


def write(
    folder: Path, entropy: bytes | None = None, change: Callable[[dict[str, Any]], Any] | None = None
) -> Path:
    """A bundle; the files for the edge's and the cloud's networks hold any bytes, because nothing here reads them."""
    contents = {
        EDGE: b"onnx" * 99,
        EXTRACTOR: b"extractor" * 99,
        ENTROPY: save(TENSORS) if entropy is None else entropy,
        CLOUD: b"cloud" * 99,
    }
    raw = manifest(contents)
    if change:
        change(raw)
    raw["sha256"] = seal(raw)
    folder.mkdir(exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST).write_text(json.dumps(raw))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


def test_a_sound_bundle(folder: Path) -> None:
    bundle = Bundle.open(str(folder))
    assert bundle.read(EDGE) == b"onnx" * 99
    tensors = bundle.entropy()
    assert tensors.keys() == TENSORS.keys()
    assert all(np.array_equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert tensors["last.weight"].dtype == TENSORS["last.weight"].dtype
    LatentCodec(tensors)
    assert bundle.fingerprint == fingerprint(TENSORS)[:4]
    info = bundle.info()
    assert (info.name, info.fingerprint, info.qualities) == ("test-1.0", bundle.fingerprint.hex(), (3, 7))
    assert info.tasks[0].labels == ("kitchen", "cellar")


@pytest.mark.parametrize(
    "change", [lambda raw: raw.pop("figures"), lambda raw: raw.update(figures="none")], ids=["absent", "text"]
)
def test_figures_are_optional(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    bundle = Bundle.open(write(tmp_path / "bundle", change=change))
    assert bundle.manifest.figures == {}
    assert bundle.info().name == "test-1.0"


def test_tasks_and_qualities(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.task("rooms").split == 4
    with pytest.raises(UnknownTaskError, match="unknown task 'depth'; this bundle answers: rooms"):
        bundle.task("depth")
    assert bundle.quality(None) == bundle.info().default_quality == 3
    assert [bundle.quality(q) for q in range(3, 8)] == [3, 4, 5, 6, 7]
    assert [bundle.position(q) for q in range(3, 8)] == [0, 0.25, 0.5, 0.75, 1]
    for outside in (2, 8):
        with pytest.raises(RequestError, match=f"quality {outside} is not one of this bundle's: 3 to 7"):
            bundle.quality(outside)


def test_default_quality(tmp_path: Path) -> None:
    """Any quality of the bundle, also one between two levels."""
    bundle = Bundle.open(write(tmp_path / "bundle", change=lambda raw: raw.update(default_quality=6)))
    assert bundle.quality(None) == bundle.info().default_quality == 6
    assert bundle.info().qualities == (3, 7)


def test_the_hold_of_sessions(tmp_path: Path, folder: Path) -> None:
    """A manifest without one is written without the key, which older releases refuse."""
    plain = Bundle.open(folder)
    assert (plain.hold(None), plain.hold(0.0)) == (0.3, 0.0)
    assert b'"hold"' not in plain.manifest.sealed_json()
    own = Bundle.open(write(tmp_path / "bundle", change=lambda raw: raw.update(hold=0.1)))
    assert (own.hold(None), own.hold(0.0)) == (0.1, 0.0)
    assert b'"hold": 0.1' in own.manifest.sealed_json()


def test_one_level(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bundle",
        save(ONE_LEVEL),
        lambda raw: raw.update(
            fingerprint=fingerprint(ONE_LEVEL).hex(), qualities=[{"quality": 50, "lambda": 1}]
        ),
    )
    bundle = Bundle.open(path)
    bundle.entropy()
    assert (bundle.quality(None), bundle.quality(50), bundle.position(50)) == (50, 50, 0)
    with pytest.raises(RequestError, match="quality 49 is not one of this bundle's: 50"):
        bundle.quality(49)


@pytest.mark.parametrize(
    ("tensors", "qualities", "message"),
    [
        (TENSORS, [3, 8], "for qualities 3 to 7, the manifest says 3 to 8"),
        (TENSORS, [3], "for qualities 3 to 7, the manifest says 3"),
        (ONE_LEVEL, [3, 7], "for qualities of one level, the manifest says 3 to 7"),
    ],
    ids=["another", "fewer", "more"],
)
def test_integers_for_other_qualities(
    tmp_path: Path, tensors: Tensors, qualities: list[int], message: str
) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["fingerprint"] = fingerprint(tensors).hex()
        raw["qualities"] = [{"quality": quality, "lambda": 1} for quality in qualities]

    bundle = Bundle.open(write(tmp_path / "bundle", save(tensors), change))
    with pytest.raises(BundleDamagedError, match=message):
        bundle.entropy()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"no bundle at .*none: a bundle is a folder"):
        Bundle.open(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(BundleNotFoundError, match=r"no bundle at .*file"):
        Bundle.open(tmp_path / "file")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"no manifest\.json in .*this folder is not a bundle"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"name: rooms", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"format": 1' + 5000 * b"0" + b"}", "is not JSON"),
        (b"\xff\xfe\x00", "cannot read"),
        (b"[]", "the document"),
        (b"null", "the document"),
        (b'"text"', "the document"),
    ],
)
def test_manifest_that_is_no_manifest(folder: Path, text: bytes, message: str) -> None:
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(BundleDamagedError, match=message) as caught:
        Bundle.open(folder)
    assert MANIFEST in str(caught.value)
    assert "\n" not in str(caught.value)


def test_manifest_that_is_a_folder(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    with pytest.raises(BundleDamagedError, match="cannot read"):
        Bundle.open(folder)


@pytest.mark.parametrize("key", sorted(set(manifest({})) - {"format", "figures"}))
def test_missing_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(BundleDamagedError, match=rf"manifest\.json: {key}: Field required"):
        Bundle.open(write(tmp_path / "bundle", change=lambda raw: raw.pop(key)))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda raw: raw.update(fingerprint="abc"), "fingerprint"),
        (lambda raw: raw.update(name="../etc"), "name"),
        (lambda raw: raw.update(extra=1), "extra"),
        (lambda raw: raw.update(qualities=[]), "qualities"),
        (lambda raw: raw["qualities"][1].update(quality=101), r"qualities\.1\.quality"),
        (lambda raw: raw["qualities"][1].update({"lambda": 0}), r"qualities\.1\.lambda"),
        (lambda raw: raw["qualities"][1].update(quality=3), "the document"),
        (lambda raw: raw["qualities"].reverse(), "the document"),
        (lambda raw: raw.update(default_quality=8), "the document"),
        (lambda raw: raw.update(hold=-0.1), "hold"),
        (lambda raw: raw.update(hold=4.1), "hold"),
        (lambda raw: raw.update(tasks=[]), "tasks"),
        (lambda raw: raw["tasks"][0].update(name="Rooms!"), r"tasks\.0\.name"),
        (lambda raw: raw["tasks"][0].update(kind="telepathy"), r"tasks\.0\.kind"),
        (lambda raw: raw["preprocess"].update(height=0), r"preprocess\.height"),
        (lambda raw: raw["preprocess"].update(fit="pad"), r"preprocess\.fit"),
        (lambda raw: raw["files"][EDGE].pop("sha256"), rf"files\.{EDGE}\.sha256"),
    ],
)
def test_wrong_value(tmp_path: Path, change: Callable[[dict[str, Any]], Any], where: str) -> None:
    with pytest.raises(BundleDamagedError, match=rf"manifest\.json: {where}: ") as caught:
        Bundle.open(write(tmp_path / "bundle", change=change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [0, 1, 4, "2", 1.5])
def test_other_format(tmp_path: Path, number: object) -> None:
    # Said before anything else is looked at: another format may have other keys.
    def change(raw: dict[str, Any]) -> None:
        raw.clear()
        raw["format"] = number

    with pytest.raises(
        BundleDamagedError, match=f"has bundle format {number}; this release reads format 2 and 3"
    ):
        Bundle.open(write(tmp_path / "bundle", change=change))


@pytest.mark.parametrize("name", FILES)
def test_file_not_listed(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleDamagedError, match=f"does not list {name}"):
        Bundle.open(write(tmp_path / "bundle", change=lambda raw: raw["files"].pop(name)))


@pytest.mark.parametrize("name", FILES)
def test_file_gone(folder: Path, name: str) -> None:
    (folder / name).unlink()
    bundle = Bundle.open(folder)
    with pytest.raises(BundleDamagedError, match=f"cannot read .*{name}: No such file"):
        bundle.read(name)
    for other in set(FILES) - {name}:
        bundle.read(other)  # an edge does not need the cloud's file, nor the reverse


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["first", "last", "shorter", "longer"])
def test_one_byte_changed(folder: Path, name: str, damage: str) -> None:
    data = bytearray((folder / name).read_bytes())
    if damage == "shorter":
        data.pop()
    elif damage == "longer":
        data.append(0)
    else:
        data[0 if damage == "first" else -1] ^= 1
    (folder / name).write_bytes(data)
    bundle = Bundle.open(folder)
    with pytest.raises(BundleDamagedError, match=f"{name} is not the file that the manifest lists") as caught:
        bundle.read(name)
    assert "\n" not in str(caught.value)
    if name == ENTROPY:
        with pytest.raises(BundleDamagedError, match=ENTROPY):
            bundle.entropy()


@pytest.mark.parametrize(("old", "new"), [("cellar", "cellas"), ("0.5", "0.6"), ("64", "65")])
def test_a_manifest_that_is_changed_but_still_valid(folder: Path, old: str, new: str) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace(old, new, 1))
    with pytest.raises(BundleDamagedError, match="was changed after it was made"):
        Bundle.open(folder)
    (folder / MANIFEST).write_text(json.dumps(json.loads(text), indent=4))  # spaces mean nothing
    Bundle.open(folder)


def test_every_flipped_bit_of_a_manifest_is_noticed(folder: Path) -> None:
    data = (folder / MANIFEST).read_bytes()
    same = Bundle.open(folder).manifest
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 7
        (folder / MANIFEST).write_bytes(damaged)
        with contextlib.suppress(BundleError):  # or nothing that counts has changed: a tab between two keys
            assert Bundle.open(folder).manifest == same, f"byte {at}"


def test_another_fingerprint(tmp_path: Path) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    bundle = Bundle.open(write(tmp_path / "bundle", change=lambda raw: raw.update(fingerprint=other)))
    own = fingerprint(TENSORS).hex()[:8]
    with pytest.raises(BundleDamagedError, match=f"fingerprint {own}, the manifest says {other[:8]}"):
        bundle.entropy()


def test_integers_of_another_bundle(tmp_path: Path) -> None:
    # Its hash in the manifest is right, so only the fingerprint can tell.
    bundle = Bundle.open(write(tmp_path / "bundle", entropy=save(random_tensors(4))))
    with pytest.raises(BundleDamagedError, match="have fingerprint"):
        bundle.entropy()


@pytest.mark.parametrize(
    ("entropy", "message"),
    [
        (b"", ENTROPY),
        (b"\xff" * 64, ENTROPY),
        (save({"a": np.zeros(3, np.float32)}), "something other than integers"),
        (save({"a": np.zeros(3, bool)}), "something other than integers"),
    ],
)
def test_entropy_that_is_none(tmp_path: Path, entropy: bytes, message: str) -> None:
    bundle = Bundle.open(write(tmp_path / "bundle", entropy=entropy))
    with pytest.raises(BundleDamagedError, match=message):
        bundle.entropy()


def test_every_damage_is_a_bundle_error_of_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    messages = set()
    for path in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(BundleError) as caught:
            Bundle.open(path)
        messages.add(str(caught.value))
    for name in FILES:
        (folder / name).write_bytes(b"x")
        with pytest.raises(BundleError) as caught:
            Bundle.open(folder).read(name)
        messages.add(str(caught.value))
    assert len(messages) == 2 + len(FILES)


def test_default_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ISTHMUS_BUNDLE", raising=False)
    assert default_bundle() == Path(__file__).parents[2] / "deploy" / "bundles" / "rooms"
    monkeypatch.setenv("ISTHMUS_BUNDLE", str(tmp_path))
    assert default_bundle() == tmp_path
    monkeypatch.setenv("ISTHMUS_BUNDLE", "photos")
    assert default_bundle() == Path(__file__).parents[2] / "deploy" / "bundles" / "photos"


def test_a_shipped_bundle_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Bundle.open(find_bundle(Path("photos"))).manifest.name == "photos"
    assert find_bundle(Path("others")) == Path("others")
    Path("photos").mkdir()  # a folder of the user's own goes before
    assert find_bundle(Path("photos")) == Path("photos")
