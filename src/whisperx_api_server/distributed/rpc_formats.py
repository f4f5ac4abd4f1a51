"""The formats of those requests and their answers, as `rpc` sends them.

They are those of `ShareFetchRequest.json` and so on of Apache Kafka 4.2, each in one version, all
flexible (KIP-482). `Call` is what aiokafka's connections take for a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

from aiokafka.protocol.api import RequestHeader_v2, ResponseHeader_v1
from aiokafka.protocol.types import (
    Boolean,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    TaggedFields,
    UnsignedVarInt32,
)

UNSUPPORTED_VERSION = 35


class RpcError(Exception):
    """The broker refuses a request: the error's number in Kafka's protocol, and its message."""

    def __init__(self, code: int, message: str | None) -> None:
        super().__init__(f"error {code}: {message}" if message else f"error {code}")
        self.code = code


class _Codec(Protocol):
    def encode(self, value: Any) -> bytes: ...

    def decode(self, data: BytesIO) -> Any: ...


class _Uuid:
    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, data: BytesIO) -> bytes:
        return data.read(16)


class _Array:
    def __init__(self, element: _Codec) -> None:
        self._element = element

    def encode(self, value: Sequence[object] | None) -> bytes:
        size: bytes = UnsignedVarInt32.encode(0 if value is None else len(value) + 1)
        return size + b"".join(self._element.encode(each) for each in value or ())

    def decode(self, data: BytesIO) -> list[object]:
        return [self._element.decode(data) for _ in range(UnsignedVarInt32.decode(data) - 1)]


class _Struct:
    """Fields in order, then tagged fields, of which none is sent and none is read."""

    def __init__(self, **fields: _Codec) -> None:
        self._fields = fields

    def encode(self, value: Mapping[str, object]) -> bytes:
        fields = [codec.encode(value[name]) for name, codec in self._fields.items()]
        return b"".join([*fields, TaggedFields.encode({})])

    def decode(self, data: BytesIO) -> dict[str, Any]:
        value = {name: codec.decode(data) for name, codec in self._fields.items()}
        TaggedFields.decode(data)
        return value


class _Nullable:
    """A struct behind the byte that says whether it is there."""

    def __init__(self, struct: _Struct) -> None:
        self._struct = struct

    def decode(self, data: BytesIO) -> dict[str, Any] | None:
        return self._struct.decode(data) if Int8.decode(data) > 0 else None

    def encode(self, value: Mapping[str, object] | None) -> bytes:
        return b"\xff" if value is None else b"\x01" + self._struct.encode(value)


@dataclass(frozen=True, slots=True)
class _Rpc:
    """A request and its response, in one version."""

    key: int
    version: int
    request: _Struct
    response: _Struct

    def __call__(self, values: Mapping[str, object]) -> Call:
        return Call(self, values)


class Call:
    """A request with its values: aiokafka's `Request`, and the `RequestStruct` it prepares."""

    FLEXIBLE_VERSION = True

    def __init__(self, rpc: _Rpc, values: Mapping[str, object]) -> None:
        self._rpc = rpc
        self._values = values
        self.API_KEY = rpc.key
        self.API_VERSION = rpc.version
        self.RESPONSE_TYPE = rpc.response

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Call:
        lowest, highest = versions.get(self.API_KEY, (0, -1))
        if not lowest <= self.API_VERSION <= highest:
            raise RpcError(
                UNSUPPORTED_VERSION,
                f"the broker lacks version {self.API_VERSION} of {self.API_KEY}",
            )
        return self

    def build_request_header(self, correlation_id: int, client_id: str) -> RequestHeader_v2:
        return RequestHeader_v2(self, correlation_id=correlation_id, client_id=client_id)

    def parse_response_header(self, data: BytesIO) -> ResponseHeader_v1:
        return ResponseHeader_v1.decode(data)

    def encode(self) -> bytes:
        return self._rpc.request.encode(self._values)


_STRING = CompactString()
_ACKNOWLEDGEMENTS = _Array(_Struct(first=Int64, last=Int64, kinds=_Array(Int8)))
_ACKNOWLEDGED = _Array(
    _Struct(
        id=_Uuid(),
        partitions=_Array(_Struct(index=Int32, acknowledgements=_ACKNOWLEDGEMENTS)),
    )
)
_ASSIGNED = _Array(_Struct(id=_Uuid(), partitions=_Array(Int32)))
_LEADER = _Struct(leader=Int32, epoch=Int32)
_NODES = _Array(_Struct(id=Int32, host=_STRING, port=Int32, rack=_STRING))

METADATA = _Rpc(
    3,
    12,
    _Struct(topics=_Array(_Struct(id=_Uuid(), name=_STRING)), create=Boolean, operations=Boolean),
    _Struct(
        throttle=Int32,
        brokers=_NODES,
        cluster=_STRING,
        controller=Int32,
        topics=_Array(
            _Struct(
                error=Int16,
                name=_STRING,
                id=_Uuid(),
                internal=Boolean,
                partitions=_Array(
                    _Struct(
                        error=Int16,
                        index=Int32,
                        leader=Int32,
                        epoch=Int32,
                        replicas=_Array(Int32),
                        in_sync=_Array(Int32),
                        offline=_Array(Int32),
                    )
                ),
                operations=Int32,
            )
        ),
    ),
)
HEARTBEAT = _Rpc(
    76,
    1,
    _Struct(group=_STRING, member=_STRING, epoch=Int32, rack=_STRING, topics=_Array(_STRING)),
    _Struct(
        throttle=Int32,
        error=Int16,
        message=_STRING,
        member=_STRING,
        epoch=Int32,
        interval=Int32,
        assignment=_Nullable(_Struct(topics=_ASSIGNED)),
    ),
)
SHARE_FETCH = _Rpc(
    78,
    2,
    _Struct(
        group=_STRING,
        member=_STRING,
        epoch=Int32,
        wait=Int32,
        min_bytes=Int32,
        max_bytes=Int32,
        max_records=Int32,
        batch=Int32,
        mode=Int8,
        renew=Boolean,
        topics=_ACKNOWLEDGED,
        forgotten=_ASSIGNED,
    ),
    _Struct(
        throttle=Int32,
        error=Int16,
        message=_STRING,
        lock=Int32,
        topics=_Array(
            _Struct(
                id=_Uuid(),
                partitions=_Array(
                    _Struct(
                        index=Int32,
                        error=Int16,
                        message=_STRING,
                        acknowledge_error=Int16,
                        acknowledge_message=_STRING,
                        leader=_LEADER,
                        records=CompactBytes,
                        acquired=_Array(_Struct(first=Int64, last=Int64, count=Int16)),
                    )
                ),
            )
        ),
        nodes=_NODES,
    ),
)
SHARE_ACKNOWLEDGE = _Rpc(
    79,
    2,
    _Struct(group=_STRING, member=_STRING, epoch=Int32, renew=Boolean, topics=_ACKNOWLEDGED),
    _Struct(
        throttle=Int32,
        error=Int16,
        message=_STRING,
        lock=Int32,
        topics=_Array(
            _Struct(
                id=_Uuid(),
                partitions=_Array(
                    _Struct(index=Int32, error=Int16, message=_STRING, leader=_LEADER)
                ),
            )
        ),
        nodes=_NODES,
    ),
)
ALTER_CONFIGS = _Rpc(
    44,
    1,
    _Struct(
        resources=_Array(
            _Struct(
                type=Int8,
                name=_STRING,
                configs=_Array(_Struct(name=_STRING, operation=Int8, value=_STRING)),
            )
        ),
        validate=Boolean,
    ),
    _Struct(
        throttle=Int32,
        resources=_Array(_Struct(error=Int16, message=_STRING, type=Int8, name=_STRING)),
    ),
)
