"""What tokens a replayed recording carries: the recorded ones, a stored portal's, or a sandbox's."""

from b24tunnel.fresh_tokens.filling import Auth, TokenFilling

__all__ = ["Auth", "TokenFilling"]
