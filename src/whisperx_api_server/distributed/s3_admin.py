"""Make the S3 bucket and its lifecycle: two requests that obstore lacks, signed here (SigV4)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

import httpx

from .protocols import ClusterError

logger = logging.getLogger(__name__)

_CODE = re.compile(r"<Code>(\w+)</Code>")
_UNKNOWN_KEY = {"InvalidAccessKeyId", "XAdminUserNotFound"}
_RULE = "whisperx-api-server"
_RULE_ID = re.compile(r"<ID>([^<]*)</ID>")
_TIMEOUT = 10.0


class BucketAdmin:
    """Requests on a bucket as a whole."""

    def __init__(
        self, *, endpoint: str, bucket: str, region: str, access_key_id: str, secret: str
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._bucket = bucket
        self._region = region
        self._access_key_id = access_key_id
        self._secret = secret
        self._client = httpx.AsyncClient(timeout=_TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def make(self) -> None:
        """Make the bucket if it is absent; a key that may not make buckets needs it to exist.

        Raises:
            ClusterError: the store does not answer, or refuses the key or the name.
        """
        where = f"<LocationConstraint>{escape(self._region)}</LocationConstraint>"
        body = (
            f"<CreateBucketConfiguration>{where}</CreateBucketConfiguration>"
            if self._region != "us-east-1"
            else ""
        )
        answer = await self._send("PUT", "", body)
        code = _code(answer)
        if code in _UNKNOWN_KEY:
            raise ClusterError("S3__ACCESS_KEY_ID: the store does not know this access key")
        if code == "SignatureDoesNotMatch":
            raise ClusterError("S3__SECRET_ACCESS_KEY: it is not the secret of this access key")
        if answer.status_code not in (200, 403, 409):
            raise ClusterError(
                f"S3__BUCKET: the store does not make {self._bucket}: {code or answer.status_code}"
            )

    async def expire(self, prefix: str, days: int) -> None:
        """Have the store delete, after days, what the server should have deleted before.

        A bucket with rules of its own keeps them; a store without lifecycles is fine.
        """
        answer = await self._send("GET", "lifecycle=", "")
        ours = answer.status_code == 404 or set(_RULE_ID.findall(answer.text)) == {_RULE}
        if ours:
            rule = (
                f"<ID>{_RULE}</ID><Filter><Prefix>{escape(prefix)}/</Prefix></Filter>"
                f"<Status>Enabled</Status><Expiration><Days>{days}</Days></Expiration>"
                "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation>"
                "</AbortIncompleteMultipartUpload>"
            )
            answer = await self._send(
                "PUT",
                "lifecycle=",
                f"<LifecycleConfiguration><Rule>{rule}</Rule></LifecycleConfiguration>",
            )
        if answer.status_code >= 400:
            logger.info(
                "The bucket %s has no lifecycle (%s): the server alone deletes old objects",
                self._bucket,
                _code(answer) or answer.status_code,
            )

    async def _send(self, method: str, query: str, body: str) -> httpx.Response:
        content = body.encode()
        url = f"{self._endpoint}/{self._bucket}"
        headers = self._signed(method, url, query, content)
        try:
            return await self._client.request(
                method, f"{url}?{query}" if query else url, content=content, headers=headers
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ClusterError(f"S3__ENDPOINT_URL: no store answers at {self._endpoint}") from error

    def _signed(self, method: str, url: str, query: str, content: bytes) -> dict[str, str]:
        """The headers of Signature Version 4."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{moment[:8]}/{self._region}/s3/aws4_request"
        parts = urlsplit(url)
        digest = hashlib.sha256(content).hexdigest()
        headers = {
            "content-md5": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "host": parts.netloc,
            "x-amz-content-sha256": digest,
            "x-amz-date": moment,
        }
        names = ";".join(headers)
        listed = "".join(f"{name}:{value}\n" for name, value in headers.items())
        request = "\n".join([method, parts.path, query, listed, names, digest])
        text = "\n".join(
            ["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()]
        )
        key = f"AWS4{self._secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._access_key_id}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return headers


def _code(answer: httpx.Response) -> str | None:
    found = _CODE.search(answer.text)
    return found.group(1) if found else None
