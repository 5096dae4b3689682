"""Tunnel providers: each gives a public address that leads to the receiver."""

from b24tunnel.tunnel.provider import Lost, Say, Tunnel, TunnelFailed

__all__ = ["Lost", "Say", "Tunnel", "TunnelFailed"]
