"""The gate and the file of tokens, without a server: who is admitted, how fast, and what is never written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import (
    NotReadyError,
    OverloadedError,
    PermissionDeniedError,
    RequestError,
    UnauthorizedError,
)
from shared.process.access import ANY, access
from shared.process.auth import Credentials, Gate, is_loopback
from shared.process.rates import Attempts, Bucket
from shared.process.tokens import (
    SCOPES,
    TokenGrant,
    TokenReader,
    TokenRecord,
    add_token,
    read_tokens,
    revoke_token,
    rotate_token,
    token_id,
)

ANALYZE = access("analyze")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tokens.json"


def gate(file: Path, **how: int) -> Gate:
    return Gate(TokenReader(file), **how)  # type: ignore[arg-type]


def test_the_file_holds_no_token_and_is_nobody_elses(file: Path) -> None:
    token = add_token(file, TokenGrant("front-door"))
    assert token.startswith("isthmus_")
    secret = token.rpartition("_")[2]
    text = file.read_text()
    assert token not in text
    assert secret not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    [record] = read_tokens(file)
    assert token_id(token) == record.id
    assert record.verify(token)
    assert not record.verify(token[:-1] + ("A" if token[-1] != "A" else "B"))
    assert secret not in repr(Credentials(token))


def test_what_cannot_be_granted(file: Path) -> None:
    for grant, text in (
        (TokenGrant("a b"), "name"),
        (TokenGrant("a", ()), "scopes"),
        (TokenGrant("a", cameras=("gate/*",)), "cameras"),
        (TokenGrant("a", cameras=("*a*a*a*a*",)), "at most"),
        (TokenGrant("a", requests_per_s=0), "requests_per_s"),
        (TokenGrant("a", bytes_per_s=float("nan")), "bytes_per_s"),
    ):
        with pytest.raises(RequestError, match=text):
            add_token(file, grant)
    assert not file.exists()
    add_token(file, TokenGrant("a"))
    with pytest.raises(RequestError, match="rotate"):
        add_token(file, TokenGrant("a"))
    for change in (lambda: revoke_token(file, "b"), lambda: rotate_token(file, "b", None)):
        with pytest.raises(RequestError, match="there is no token 'b'"):
            change()


def test_changes_at_once_lose_nothing(file: Path) -> None:
    threads = [threading.Thread(target=add_token, args=(file, TokenGrant(f"t{n}"))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record.name for record in read_tokens(file)) == [f"t{n}" for n in range(6)]


async def test_a_revoked_token_is_refused_by_the_next_call(file: Path) -> None:
    token, other = add_token(file, TokenGrant("a")), add_token(file, TokenGrant("b"))
    door = gate(file)
    admitted = await door.admit(Credentials(token), ANALYZE)
    assert admitted.identity.name == "a"
    revoke_token(file, "a")
    with pytest.raises(UnauthorizedError, match="not valid"):
        await door.admit(Credentials(token), ANALYZE)
    with pytest.raises(UnauthorizedError):  # nor does a stream that was open go on
        admitted.check()
    (await door.admit(Credentials(other), ANALYZE)).check()


async def test_an_expired_token_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = add_token(file, TokenGrant("a", expires_at=datetime.now(UTC) + timedelta(hours=1)))
    door = gate(file)
    admitted = await door.admit(Credentials(token), ANALYZE)
    monkeypatch.setattr(TokenRecord, "expired", lambda record: True)
    with pytest.raises(UnauthorizedError):
        await door.admit(Credentials(token), ANALYZE)
    with pytest.raises(UnauthorizedError):
        admitted.check()


async def test_a_rotated_token_has_what_the_old_one_had(file: Path) -> None:
    grant = TokenGrant("a", ("metrics",), ("gate-*",), 5.0, 1e6)
    old = add_token(file, grant)
    new = rotate_token(file, "a", datetime.now(UTC) + timedelta(hours=1))
    door = gate(file)
    for token in (old, new):
        identity = (await door.admit(Credentials(token), access("metrics"))).identity
        assert (identity.name, identity.requests_per_s, identity.bytes_per_s) == ("a", 5.0, 1e6)
        assert identity.cameras == (("gate-*",),)
    last = rotate_token(file, "a", None)
    for token in (old, new):
        with pytest.raises(UnauthorizedError):
            await door.admit(Credentials(token), access("metrics"))
    await door.admit(Credentials(last), access("metrics"))
    assert len(read_tokens(file)) == 1


async def test_scopes(file: Path) -> None:
    door = gate(file)
    for scope in SCOPES:
        token = add_token(file, TokenGrant(scope, (scope,)))
        await door.admit(Credentials(token), ANY)
        for needed in SCOPES:
            if needed == scope:
                await door.admit(Credentials(token), access(needed))
            else:
                with pytest.raises(PermissionDeniedError, match=f"'{scope}' has not the scope {needed}"):
                    await door.admit(Credentials(token), access(needed))
    assert door.refused["scope"] == 6


async def test_a_file_that_cannot_be_read_lets_nobody_in(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = add_token(file, TokenGrant("a"))
    door, text = gate(file), file.read_text()
    await door.admit(Credentials(token), ANALYZE)
    for damage in (lambda: file.write_text(text[:-9]), file.unlink):
        damage()
        for _ in range(3):
            with pytest.raises(NotReadyError, match="cannot be read"):
                await door.admit(Credentials(token), ANALYZE)
        assert door.trouble
    assert len(caplog.records) == 2  # once for each kind of damage, not for each call
    file.write_text(text)
    await door.admit(Credentials(token), ANALYZE)
    assert not door.trouble


async def test_attempts_are_limited_by_address(file: Path) -> None:
    good = add_token(file, TokenGrant("good"))
    door = gate(file, attempts_per_minute=3)
    bad = Credentials(f"isthmus_zzzzzzzz_{'A' * 43}", peer="192.0.2.1")
    for _ in range(3):
        with pytest.raises(UnauthorizedError):
            await door.admit(bad, ANALYZE)
    with pytest.raises(OverloadedError, match="too many attempts"):
        await door.admit(bad, ANALYZE)
    # Another address goes on, and so do good tokens behind the same one: of the file, and the given one.
    with pytest.raises(UnauthorizedError):
        await door.admit(Credentials(bad.token, peer="192.0.2.2"), ANALYZE)
    await door.admit(Credentials(good, peer="192.0.2.1"), ANALYZE)
    given = Gate(given="0123456789abcdef", attempts_per_minute=1)
    with pytest.raises(UnauthorizedError):
        await given.admit(Credentials("0123456789abcdeX", peer="2001:db8::1"), ANALYZE)
    with pytest.raises(OverloadedError):  # the same network of IPv6
        await given.admit(Credentials("0123456789abcdeX", peer="2001:db8::2"), ANALYZE)
    await given.admit(Credentials("0123456789abcdef", peer="2001:db8::2"), ANALYZE)
    await given.admit(Credentials("0123456789abcdef", peer="2001:db8:0:1::1"), ANALYZE)


async def test_a_token_is_hashed_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, count = add_token(file, TokenGrant("a")), 0
    real = TokenRecord.verify

    def counted(record: TokenRecord, given: str) -> bool:
        nonlocal count
        count += 1
        return real(record, given)

    monkeypatch.setattr(TokenRecord, "verify", counted)
    door = gate(file)
    for _ in range(5):
        await door.admit(Credentials(token), ANALYZE)
    assert count == 1
    revoke_token(file, "a")
    with pytest.raises(UnauthorizedError):
        await door.admit(Credentials(token), ANALYZE)
    assert count == 1  # an unknown id costs no hash


async def test_an_open_gate() -> None:
    everybody = await Gate().admit(Credentials(), access("admin"))
    assert everybody.may_use("")
    assert everybody.may_use("any-camera")
    with pytest.raises(PermissionDeniedError, match="needs a token"):
        await Gate(open_scopes=("analyze",)).admit(Credentials(), access("admin"))


async def test_certificates_alone_open_analyze_and_their_cameras() -> None:
    door = Gate(certificates=True)
    admitted = await door.admit(Credentials(certificate=("gate-1", "yard-*", "odd name")), ANALYZE)
    assert admitted.may_use("gate-1")
    assert admitted.may_use("yard-7")
    assert not admitted.may_use("odd name")
    assert not admitted.may_use("gate-10")
    assert not admitted.may_use("")
    with pytest.raises(PermissionDeniedError):
        await door.admit(Credentials(certificate=("gate-1",)), access("admin"))
    for nothing in (None, (), ("odd name",)):
        with pytest.raises(UnauthorizedError):
            await door.admit(Credentials(certificate=nothing), ANALYZE)


async def test_rates(file: Path) -> None:
    token = add_token(file, TokenGrant("slow", requests_per_s=0.001, bytes_per_s=0.001))
    door = gate(file)
    first = await door.admit(Credentials(token), ANALYZE)
    first.charge(requests=1)
    again = await door.admit(Credentials(token), ANALYZE)  # by name: each call of a token counts together
    with pytest.raises(OverloadedError, match="'slow' has used up its 0"):
        again.charge(requests=1)
    again.charge(size=10_000_000)  # of any size once, and owed from then on
    with pytest.raises(OverloadedError):
        again.charge(size=1)
    waiting = asyncio.ensure_future(again.wait(0, 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


def test_bucket_and_attempts_with_a_clock() -> None:
    now = 0.0
    bucket = Bucket(2.0, 4.0, lambda: now)
    bucket.take(4)
    assert bucket.wait_s(1) == 0.5
    now = 0.5
    assert bucket.wait_s(1) == 0
    bucket.take(3)
    assert bucket.wait_s() == 1.0
    now = 100.0
    assert bucket.wait_s(4) == 0
    attempts = Attempts(60, keys_max=3, clock=lambda: now)
    for key in range(10):
        attempts.failed(key)
    assert len(attempts) == 3  # however many addresses try


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("127.1.2.3", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
    ).map(lambda tokens: json.dumps({"version": 1, "tokens": tokens}).encode())
)
def test_no_file_of_tokens_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-tokens.json"
    path.write_bytes(data)
    with contextlib.suppress(RequestError):
        assert all(isinstance(record, TokenRecord) for record in read_tokens(path))
