"""`b24tunnel demo`."""

from __future__ import annotations

import click


@click.command("demo", epilog="\b\nExample:\n  b24tunnel demo")
def demo_command() -> None:
    """Walk through the whole tool on this machine: portal, tunnel, record, forward, replay.

    Needs no account and no network; leaves nothing behind. Exit code 0 when every step held, else 1.
    """
    import asyncio
    import tempfile
    from pathlib import Path

    from b24tunnel.demo import demo

    def say(line: str) -> None:
        click.echo(f"{click.style('✓', fg='green')} {line}")

    with tempfile.TemporaryDirectory(prefix="b24tunnel-demo-") as directory:
        asyncio.run(demo(Path(directory), say))
    click.echo("All of it held. Next: b24tunnel sandbox, and in another terminal b24tunnel listen --help")
