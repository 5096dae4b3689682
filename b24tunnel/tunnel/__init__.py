"""Tunnel providers: each gives a public address that leads to the receiver."""

from b24tunnel.tunnel.provider import Tunnel, choose

__all__ = ["Tunnel", "choose"]
