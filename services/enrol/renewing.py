"""The holder's side of renewal: asks now and then whether it is due, makes a new key, and has the older ones end.

Owns the files that an endpoint names, each changed by one rename; knows nothing of the roster. A key is made here and stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec
import nats.errors
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from services.enrol.authority import read_certificates
from services.enrol.keys import key_fingerprint, key_pem, make_key, make_request, read_key
from services.enrol.wire import RENEW_CALL, RenewAnswer, refused_or
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.endpoint import Endpoint, write_private
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

LOOK_EVERY_S = 1800.0
REQUEST_WITHIN_S = 30.0
_log = get_logger("renewal")

Connect = Callable[[Endpoint], Awaitable[SafeClient]]
"""A further connection by the files of an endpoint as they are now."""


class Renewal:
    """A Service that keeps the certificate of ``endpoint`` valid, over the connection that was made by it.

    The older key goes on until the new one has connected: whatever is wrong with that, nobody is locked out.
    """

    name = "renewal"

    def __init__(
        self,
        nc: SafeClient,
        endpoint: Endpoint,
        *,
        connect: Connect,
        clock: Callable[[], datetime],
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._nc = nc
        self._files = HeldFiles(endpoint)
        self._endpoint = endpoint
        self._connect = connect
        self._clock = clock
        self._every_s = every_s
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """See Service. What goes wrong is logged, and tried again at the next look."""
        self.ready.set()
        while not self._stop.is_set():
            try:
                await self.look()
            except (TrainshedError, OSError, nats.errors.Error) as error:
                self._report(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._stop.wait()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    async def look(self) -> bool:
        """Renew if it is due; whether it was. Raises TrainshedError, OSError and nats-py's errors."""
        before = await asyncio.to_thread(self._files.key)
        answer = await _asked(self._nc, {"using": before})
        await asyncio.to_thread(self._files.trust, answer.authorities)
        if not answer.due and not await asyncio.to_thread(self._files.is_due, self._clock()):
            return False
        request = await asyncio.to_thread(self._files.request)
        answer = await _asked(self._nc, {"request": request.decode(), "using": before})
        using = await asyncio.to_thread(self._files.renewed, answer)
        further = await self._connect(self._endpoint)
        try:
            await _asked(further, {"using": using})
        finally:
            await further.close()
        _log.info("the certificate was renewed", not_after=self._files.not_after())
        return True

    def _report(self, error: Exception) -> None:
        with suppress(TrainshedError):
            ends = self._files.not_after()
            _log.warning(
                "the certificate was not renewed",
                error=cause(error),
                not_after=ends,
                left=str(ends - self._clock()),
            )
            return
        _log.warning("the certificate was not renewed", error=cause(error))


class HeldFiles:
    """The files of an endpoint: its authorities, and key and certificate in one."""

    def __init__(self, endpoint: Endpoint) -> None:
        if endpoint.ca is None or endpoint.cert is None or endpoint.cert != endpoint.key:
            raise TrainshedError(
                ErrorCode.INVALID,
                f"the certificate for {endpoint.url} is not one that `trainshed login` or `agent --join` got: it cannot be "
                "renewed from here",
            )
        self._ca, self._own = Path(endpoint.ca), Path(endpoint.cert)

    def is_due(self, now: datetime) -> bool:
        """Whether a renewal is, by what is here: a try whose answer was lost (which counts as the youngest elsewhere), or two
        thirds of the life are over. Blocks. Raises TrainshedError (INVALID)."""
        own = self._certificate()
        life = own.not_valid_after_utc - own.not_valid_before_utc
        return self._pending_path.exists() or now >= own.not_valid_before_utc + life * 2 / 3

    def key(self) -> str:
        """The fingerprint of the key that is in use. Blocks. Raises TrainshedError (INVALID)."""
        key = self._certificate().public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TrainshedError(ErrorCode.INVALID, f"{self._own} is for a key of another kind")
        return key_fingerprint(key)

    def not_after(self) -> datetime:
        """When the certificate expires. Raises TrainshedError (INVALID)."""
        return self._certificate().not_valid_after_utc

    def trust(self, authorities: str) -> None:
        """Trust these authorities from now on, if others were. Blocks. Raises TrainshedError (INVALID)."""
        _certificates(authorities)
        if self._ca.read_bytes() != authorities.encode():
            write_private(self._ca, authorities.encode())

    def request(self) -> bytes:
        """A signing request by a new key, or by that of a try whose answer was lost. Blocks."""
        return make_request(self._pending())

    def renewed(self, answer: RenewAnswer) -> str:
        """Take the certificate of ``answer`` into use; the fingerprint of its key. Blocks. Raises TrainshedError (INVALID)."""
        key = self._pending()
        certificate = _certificates(answer.certificate or "")[0]
        if certificate.public_key() != key.public_key():
            raise TrainshedError(ErrorCode.INVALID, "the certificate that was answered is for another key")
        self.trust(answer.authorities)
        write_private(self._own, key_pem(key) + (answer.certificate or "").encode())
        self._pending_path.unlink(missing_ok=True)
        return key_fingerprint(key.public_key())

    @property
    def _pending_path(self) -> Path:
        return self._own.with_suffix(".pending.pem")

    def _pending(self) -> ec.EllipticCurvePrivateKey:
        with suppress(FileNotFoundError, ValueError):
            return read_key(self._pending_path.read_bytes())
        key = make_key()
        write_private(self._pending_path, key_pem(key))
        return key

    def _certificate(self) -> x509.Certificate:
        try:
            return _certificates(self._own.read_text())[0]
        except OSError as error:
            raise TrainshedError(ErrorCode.INVALID, f"{self._own} cannot be read ({cause(error)})") from None


def _certificates(pem: str) -> list[x509.Certificate]:
    try:
        return read_certificates(pem.encode())
    except ValueError as error:
        raise TrainshedError(ErrorCode.INVALID, f"what was answered holds no certificate ({error})") from None


async def _asked(nc: SafeClient, body: dict[str, str]) -> RenewAnswer:
    try:
        answer = await nc.request(
            subjects.api(RENEW_CALL), msgspec.json.encode(body), timeout=REQUEST_WITHIN_S
        )
    except (nats.errors.NoRespondersError, TimeoutError) as error:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"nobody answers {RENEW_CALL} ({cause(error) or 'no answer in time'}); the service `enrol` must run",
        ) from None
    try:
        return refused_or(answer.data, RenewAnswer)
    except msgspec.MsgspecError as error:
        raise TrainshedError(
            ErrorCode.INVALID, f"{RENEW_CALL} was answered by no answer of this release ({error})"
        ) from None
