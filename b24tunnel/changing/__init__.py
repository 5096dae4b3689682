"""Changes to a recording: each touches the bytes that it is about and no others."""
