"""Replay: recordings to a handler again, as they are or changed, at a chosen pace, and what came of it."""

from b24tunnel.replaying.sending import Report, areplay, areplay_noted, replay

__all__ = ["Report", "areplay", "areplay_noted", "replay"]
