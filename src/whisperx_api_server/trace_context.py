"""The trace of the current run, as it travels to another process."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

trace_context: ContextVar[Mapping[str, str]] = ContextVar(
    "trace_context", default=MappingProxyType({})
)
"""Headers of W3C Trace Context (https://www.w3.org/TR/trace-context); empty outside of a trace."""
