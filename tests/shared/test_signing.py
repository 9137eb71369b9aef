"""Signatures of bundles: they hold for what was signed and for nothing else."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.bundle import CLOUD, EDGE, MANIFEST, SIGNATURE, Bundle
from shared.errors import BundleUnsignedError, IsthmusError, RequestError
from shared.signing import sign, verify
from support.keys import write_keys
from support.levels import write_levels
from support.processes import refused, run_here


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """key.pem and pub.pem, and another pair."""
    folder = tmp_path_factory.mktemp("keys")
    write_keys(folder, "key", "pub")
    write_keys(folder, "other", "other-pub")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_levels(tmp_path_factory.mktemp("plain") / "levels")


@pytest.fixture
def signed(tmp_path: Path, keys: Path) -> Path:
    folder = write_levels(tmp_path / "levels")
    sign(Bundle.open(folder), keys / "key.pem")
    return folder


def check(folder: Path, keys: Path, name: str = "pub.pem") -> None:
    verify(Bundle.open_without_added(folder), keys / name)


def test_commands(signed: Path, keys: Path) -> None:
    (signed / SIGNATURE).unlink()
    command = ("bundle", "verify", signed, "--key", keys / "pub.pem")
    assert "is not signed" in refused(*command, status=2)
    done = run_here("bundle", "sign", signed, "--key", keys / "key.pem")
    assert (done.returncode, Bundle.open(signed).manifest.fingerprint in done.stdout) == (0, True)
    done = run_here(*command)
    assert (done.returncode, "4 files" in done.stdout) == (0, True)
    assert "another key" in refused("bundle", "verify", signed, "--key", keys / "other-pub.pem", status=2)
    (signed / EDGE).write_bytes(b"other networks")
    assert "is not the file" in refused(*command, status=2)
    assert "is not the file" in refused("bundle", "sign", signed, "--key", keys / "key.pem", status=2)


def test_the_edge_half_is_signed_as_the_whole_is(signed: Path, keys: Path) -> None:
    (signed / CLOUD).unlink()
    check(signed, keys)


def test_a_task_that_is_added_later_leaves_the_signature(signed: Path, keys: Path) -> None:
    (signed / "tasks").mkdir()
    check(signed, keys)


def test_the_format_is_that_of_model_signing(signed: Path) -> None:
    """As its tool 1.1.1 writes and verifies it (docs/decisions/0005)."""
    document = json.loads((signed / SIGNATURE).read_text())
    assert document["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    names = [resource["name"] for resource in statement["predicate"]["resources"]]
    assert names == sorted([MANIFEST, *Bundle.open(signed).manifest.files])


def changed(folder: Path, change: Callable[[dict], object]) -> None:
    document = json.loads((folder / SIGNATURE).read_text())
    change(document)
    (folder / SIGNATURE).write_text(json.dumps(document))


def other_payload(document: dict) -> None:
    envelope = document["dsseEnvelope"]
    raw = base64.b64decode(envelope["payload"]).replace(b"levels", b"LEVELS")
    envelope["payload"] = base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (other_payload, "another key, or changed"),
        (lambda d: d["dsseEnvelope"].update(payloadType="text/plain"), "not an in-toto statement"),
        (lambda d: d["dsseEnvelope"].update(signatures=[]), "no signature that is known"),
        (lambda d: d["dsseEnvelope"]["signatures"][0].update(sig=""), "another key, or changed"),
        (lambda d: d["dsseEnvelope"]["signatures"][0].update(sig="?"), "no signature that is known"),
        (lambda d: d.clear(), "no signature that is known"),
    ],
)
def test_what_is_no_signature(signed: Path, keys: Path, change: Callable[[dict], object], text: str) -> None:
    changed(signed, change)
    with pytest.raises(BundleUnsignedError, match=text):
        check(signed, keys)


def test_of_another_bundle(signed: Path, keys: Path, tmp_path: Path) -> None:
    other = write_levels(tmp_path / "other", qualities=(10, 80))
    shutil.copy(signed / SIGNATURE, other / SIGNATURE)
    with pytest.raises(BundleUnsignedError, match="the signature of another bundle"):
        check(other, keys)


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text(max_size=3), st.lists).map(json.dumps))
@settings(max_examples=60, deadline=None)
def test_garbage_is_refused_by_name(keys: Path, plain: Path, data: bytes | str) -> None:
    folder = plain
    (folder / SIGNATURE).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(BundleUnsignedError):
        check(folder, keys)


def test_keys_that_are_none(signed: Path, keys: Path, tmp_path: Path) -> None:
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    stranger = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "ed.pem").write_bytes(stranger.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    locked = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "locked.pem").write_bytes(
        ec.generate_private_key(ec.SECP384R1()).private_bytes(pem, serialization.PrivateFormat.PKCS8, locked)
    )
    (tmp_path / "no.pem").write_text("no key")
    bundle = Bundle.open(signed)
    for name, text in (("ed.pem", "P-256"), ("locked.pem", "can be read"), ("no.pem", "can be read")):
        with pytest.raises(RequestError, match=text):
            sign(bundle, tmp_path / name)
    sign(bundle, tmp_path / "locked.pem", "secret")
    with pytest.raises(BundleUnsignedError, match="another key"):
        check(signed, keys)
    for name in ("key.pem", "absent.pem"):
        with pytest.raises(IsthmusError, match=r"key"):
            check(signed, keys, name)
