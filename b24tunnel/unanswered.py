"""Why a request got no answer, in a few words and without the address that libraries like to add."""

from __future__ import annotations

import os
import ssl

import aiohttp

from b24tunnel.send_once import ConnectionLost


def why_unanswered(error: Exception, timeout: float | None) -> str:
    """The failure of an aiohttp client in words that fit into brackets; ``timeout`` is what it had, in seconds."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection in time"
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s" if timeout is not None else "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        why = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else cause
        return f"its TLS certificate is not trusted: {why}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        inner = error.os_error
        if isinstance(inner, ssl.SSLError):
            return f"TLS failed: {inner.reason}"
        return _words(inner)
    if isinstance(error, ConnectionLost):
        return "the connection was reset" if error.reset else "the connection was closed before the answer"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before the answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection was closed in the middle of the answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "what it answers is no HTTP"
    if isinstance(error, OSError):
        return _words(error)
    return type(error).__name__


def _words(error: OSError) -> str:
    # asyncio puts the address where the system's words should be.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else type(error).__name__
