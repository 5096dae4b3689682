"""Receive, record, forward and replay Bitrix24 events on a laptop."""
