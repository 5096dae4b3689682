"""Recordings in other forms than the journal's."""
