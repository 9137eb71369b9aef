"""Who may call: the one place that decides, for gRPC and HTTP alike. Knows neither of them.

    Credentials (token, names of the client's certificate, address) -> Gate.admit(scopes) -> Caller
    Caller.check_camera(name), Caller.charge(...), Caller.check() while a stream is open

A face declares for each of its calls which scopes open it (`shared.process.access`); one that declares nothing is
closed. A caller who is admitted stands in `caller()` for as long as the call runs.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import hmac
import ipaddress
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from shared.errors import NotReadyError, OverloadedError, PermissionDeniedError, UnauthorizedError
from shared.process.access import Access
from shared.process.rates import Attempts, Bucket
from shared.process.tokens import SCOPES, Scope, TokenRecord, TokenSource, token_id

log = logging.getLogger("isthmus.auth")

ATTEMPTS_PER_MINUTE = 10
_HASHES_AT_ONCE = 2  # each takes 16 MiB and a processor for some 50 ms
_HASHES_WAITING_MAX = 32
_CERTIFICATE_NAME = re.compile(r"[A-Za-z0-9_.*-]{1,64}", re.ASCII)
_STARS_MAX = 4


@dataclass(frozen=True)
class Credentials:
    """What a caller brought.

    token: None without one. certificate: names in a client certificate that TLS has verified; None without one.
    peer: the address that it calls from.
    """

    token: str | None = field(default=None, repr=False)
    certificate: tuple[str, ...] | None = None
    peer: str = ""


@dataclass(frozen=True)
class Identity:
    """Who calls and what that name may do.

    cameras: sets of patterns; a name has to match one of each set. weight: of its part when not all can be served.
    """

    name: str
    scopes: frozenset[Scope]
    cameras: tuple[tuple[str, ...], ...] = ()
    requests_per_s: float | None = None
    bytes_per_s: float | None = None
    weight: float = 1.0


class Caller:
    """One admitted caller."""

    def __init__(self, identity: Identity, gate: Gate, record: TokenRecord | None = None) -> None:
        self.identity = identity
        self._gate, self._record = gate, record

    def check(self) -> None:
        """Raises UnauthorizedError once the caller's token is revoked or has expired, or the caller has none and the
        gate has been locked since; NotReadyError."""
        if self._gate.shuts_out(self.identity):
            raise _no_token()
        if self._record is not None:
            self._gate.check_record(self._record)

    def may_use(self, camera: str) -> bool:
        """Whether the caller may send, see and ask for what belongs to that camera; empty stands for no name."""
        return all(any(_matches(camera, pattern) for pattern in one) for one in self.identity.cameras)

    def check_camera(self, camera: str) -> None:
        """Raises PermissionDeniedError."""
        if self.may_use(camera):
            return
        self._gate.refused["camera"] += 1
        allowed = ", ".join(" ".join(one) for one in self.identity.cameras)[:200]
        what = f"the camera {camera[:64]!r}" if camera else "images without a camera's name"
        raise PermissionDeniedError(f"{self.identity.name!r} may not use {what}; it may use {allowed}")

    def charge(self, requests: int = 0, size: int = 0) -> None:
        """Counts against the caller's rates. size: in bytes. Raises OverloadedError where one is used up."""
        if wait_s := self.wait_s(requests):
            self._gate.refused["rate"] += 1
            raise OverloadedError(
                f"{self.identity.name!r} has used up its {self._rates()}; try again in {wait_s:.1f} s", wait_s
            )
        self._gate.take(self.identity, requests, size)

    def count(self, size: int) -> None:
        """Counts bytes of a request that was let in. What is more than the rate is owed by the next one."""
        self._gate.take(self.identity, 0, size)

    async def wait(self, requests: int, size: int) -> None:
        """Counts against the caller's rates, and waits as long as one is used up: for messages of an open stream."""
        while wait_s := self.wait_s(requests):
            await asyncio.sleep(wait_s)
        self._gate.take(self.identity, requests, size)

    def wait_s(self, requests: int = 0) -> float:
        return self._gate.wait_s(self.identity, requests)

    def _rates(self) -> str:
        rates = ((self.identity.requests_per_s, "requests"), (self.identity.bytes_per_s, "bytes"))
        return " and ".join(f"{rate:g} {unit} a second" for rate, unit in rates if rate is not None)


_CALLER: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """The caller of the running call. Raises LookupError outside of one that went through a gate."""
    return _CALLER.get()


def set_caller(admitted: Caller) -> None:
    """Makes `caller()` return it for the rest of the running task, and in tasks that it starts."""
    _CALLER.set(admitted)


class Gate:
    """Decides who is admitted. Must be used in one event loop.

    tokens: a file of them, or a table. given: one more token, with every scope. certificates: whether a verified client
    certificate alone opens the scope "analyze". Without any of the three the gate is open: everybody has `open_scopes`.
    local: whether the server listens on this machine alone. open_until_tokens: the gate is open for as long as
    there is no file of tokens yet.
    """

    def __init__(
        self,
        tokens: TokenSource | None = None,
        given: str | None = None,
        certificates: bool = False,
        open_scopes: Iterable[Scope] = SCOPES,
        attempts_per_minute: int = ATTEMPTS_PER_MINUTE,
        local: bool = False,
        open_until_tokens: bool = False,
    ) -> None:
        self.local = local
        self._locked = bool((tokens and not open_until_tokens) or given or certificates)
        self.refused: Counter[str] = Counter()  # by reason: no token, token, scope, camera, rate, attempts
        self._tokens, self._certificates = tokens, certificates
        self._given = _digest(given) if given else None
        self._open = Identity("anybody", frozenset(open_scopes))
        self._attempts = Attempts(attempts_per_minute)
        self._verified: dict[str, tuple[TokenRecord, bytes]] = {}
        self._buckets: dict[str, tuple[Bucket | None, Bucket | None]] = {}
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._waiting = 0
        self.trouble = ""  # why the tokens cannot be read
        self._unknown = False  # whether there are tokens, when that was asked last

    @property
    def locked(self) -> bool:
        """Whether callers are asked who they are. Once locked, it stays so: a file that goes away opens nothing."""
        if self._locked or self._tokens is None:
            return self._locked
        if (found := self._tokens.exists()) is None:
            self._unknown = True
            return True  # whoever comes is refused until that is known
        if found:
            log.info("there are tokens now: everybody has to bring one")
            self._locked = True
        elif self._unknown:
            log.info("the database has no tokens: everybody on this machine may call")
        self._unknown = False
        return self._locked

    def shuts_out(self, identity: Identity) -> bool:
        """Whether somebody was let in while the gate was open, and it no longer is."""
        return identity is self._open and self.locked

    async def admit(self, credentials: Credentials, needed: Access) -> Caller:
        """The caller of a call that any of the needed scopes opens.

        Raises UnauthorizedError, PermissionDeniedError, OverloadedError after too many failed attempts, or
        NotReadyError where the tokens cannot be read.
        """
        found = await self._identify(credentials)
        if not needed.is_public and not needed.scopes & found.identity.scopes:
            self.refused["scope"] += 1
            wanted = " or ".join(sorted(needed.scopes))
            if not self.locked:
                raise PermissionDeniedError(f"this call needs a token with the scope {wanted}")
            raise PermissionDeniedError(f"{found.identity.name!r} has not the scope {wanted}")
        return found

    def check_record(self, record: TokenRecord) -> None:
        """Raises UnauthorizedError where a record has been removed, changed, or has expired; NotReadyError."""
        if self._records().get(record.id) != record or record.expired():
            self.refused["token"] += 1
            raise _not_valid()

    def wait_s(self, identity: Identity, requests: int) -> float:
        """Seconds until the identity may send so many requests, and any bytes."""
        by_request, by_byte = self._buckets_of(identity)
        return max(
            by_request.wait_s(least=requests) if by_request and requests else 0.0,
            by_byte.wait_s() if by_byte else 0.0,
        )

    def take(self, identity: Identity, requests: int, size: int) -> None:
        by_request, by_byte = self._buckets_of(identity)
        if by_request:
            by_request.take(requests)
        if by_byte:
            by_byte.take(size)

    async def _identify(self, credentials: Credentials) -> Caller:
        if not self.locked:
            return Caller(self._open, self)
        names = _usable(credentials.certificate) if self._certificates else None
        if credentials.token is None:
            if names:
                return Caller(Identity(f"certificate {names[0]}", frozenset({"analyze"}), (names,)), self)
            self.refused["no token"] += 1
            raise _no_token()
        identity, record = await self._by_token(credentials.token, credentials.peer)
        if names is not None:  # both have to allow a camera
            identity = replace(identity, cameras=(*identity.cameras, names))
        return Caller(identity, self, record)

    async def _by_token(self, token: str, peer: str) -> tuple[Identity, TokenRecord | None]:
        records = self._records()
        record = records.get(token_id(token) or "")
        digest = _digest(token)
        if record is not None and not record.expired():
            known = self._verified.get(record.id)
            if known is not None and known[0] == record and hmac.compare_digest(known[1], digest):
                return _identity_of(record), record
        if self._given is not None and hmac.compare_digest(
            self._given, digest
        ):  # valid: it counts no attempts
            return Identity("the given token", frozenset(SCOPES)), None
        # By id too, so that one camera with an old token does not shut out those behind the same address.
        attempt = (_network_of(peer), record.id if record else "")
        if wait_s := self._attempts.wait_s(attempt):
            self.refused["attempts"] += 1
            raise OverloadedError(
                f"too many attempts with a token that is not valid; try again in {wait_s:.0f} s", wait_s
            )
        if record is None or not await self._verify(record, token) or record.expired():
            self._attempts.failed(attempt)
            self.refused["token"] += 1
            raise _not_valid()
        self._verified = {i: known for i, known in self._verified.items() if i in records}
        self._verified[record.id] = record, digest
        return _identity_of(record), record

    async def _verify(self, record: TokenRecord, token: str) -> bool:
        if self._waiting >= _HASHES_WAITING_MAX:
            raise OverloadedError("many new tokens are being checked; try again later")
        self._waiting += 1
        try:
            async with self._hashing:
                return await asyncio.to_thread(record.verify, token)
        finally:
            self._waiting -= 1

    def _records(self) -> Mapping[str, TokenRecord]:
        if self._tokens is None:
            return {}
        try:
            records = self._tokens.records()
        except NotReadyError as error:
            if self.trouble != (why := str(error.__cause__ or error)):  # once, not for each call
                log.error("nobody is let in: %s", why)
            self.trouble = why
            raise
        self.trouble = ""
        return records

    def _buckets_of(self, identity: Identity) -> tuple[Bucket | None, Bucket | None]:
        wanted = (identity.requests_per_s, identity.bytes_per_s)
        if wanted == (None, None):
            return None, None
        found = self._buckets.get(identity.name)
        if found is None or tuple(bucket and bucket.per_s for bucket in found) != wanted:
            found = _bucket(wanted[0]), _bucket(wanted[1])
            self._buckets[identity.name] = found
        return found


def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's own and nobody else's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _bucket(per_s: float | None) -> Bucket | None:
    return None if per_s is None else Bucket(per_s, max(per_s, 1.0))


def _identity_of(record: TokenRecord) -> Identity:
    patterns = (record.cameras,) if "*" not in record.cameras else ()
    return Identity(
        record.name,
        frozenset(record.scopes),
        patterns,
        record.requests_per_s,
        record.bytes_per_s,
        record.weight,
    )


def _no_token() -> UnauthorizedError:
    return UnauthorizedError("this call needs a token: Authorization: Bearer TOKEN")


def _not_valid() -> UnauthorizedError:
    return UnauthorizedError("the token is not valid: it is unknown, revoked or expired")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _matches(camera: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(camera, pattern) and (camera != "" or pattern == "*")


def _usable(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The names of a certificate that can stand for cameras; None without a certificate."""
    if names is None:
        return None
    return tuple(n for n in names if _CERTIFICATE_NAME.fullmatch(n) and n.count("*") <= _STARS_MAX)


def _network_of(peer: str) -> str:
    """The address that attempts are counted for: all of a /64 of IPv6, which one household may have."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer[:64]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)
