"""Rounds of `kill -9` under load: what was acknowledged is in the journal, and goes to the handler afterwards.

Run it with: python tests/benchmarks/kills.py --rounds 100
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import telling
from senders import (
    DEADLINE,
    Address,
    Book,
    Comparison,
    Handler,
    Listening,
    Sender,
    end,
    held_port,
    noted_attempts,
    wait_until,
)

from b24tunnel import Journal
from b24tunnel.handler_path import handler_segment

SENDERS = 6
# The mean of seconds between a sender's bursts, one of these in each round.
GAPS = (0.0, 0.005, 0.02)
# A crashed session is read again at each later start, so a directory gets this many kills and then a fresh one.
ROUNDS_A_DIRECTORY = 10
SMALL_SEGMENT = 40_000
# The share of bodies with a mebibyte, and in rounds that want to meet a line while it is written.
LARGE, LARGE_TO_TEAR = 0.003, 0.15
VARIANTS = ("running", "stopped", "starting", "rotating", "beside another", "writing")
# How many recordings `list` is asked for at the end.
LISTED = 200
# How long a kill waits for a line that is being written.
_WRITE_SECONDS = 3.0


@dataclass
class Summary:
    """What all rounds came to. ``again``: calls of the handler with a recording that it had got before."""

    rounds: int = 0
    variants: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    acknowledged: int = 0
    recorded: int = 0
    recorded_unacknowledged: int = 0
    torn_lines: int = 0
    resumed: int = 0
    handed_over: int = 0
    again: int = 0
    missing: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    directory: str | None = None


class Era:
    """One directory of recordings through several kills, and an orderly session at its end."""

    def __init__(self, directory: Path, chance: random.Random, summary: Summary) -> None:
        self._directory = directory
        self._recordings = directory / "recordings"
        self._chance = chance
        self._summary = summary
        self._wrong = summary.wrong
        self._book = Book(LARGE)
        self._ports = held_port(), held_port()
        self._path = f"/b24/{handler_segment(self._recordings)}"
        self._torn: dict[Path, bytes] = {}  # what a kill left, and no opening has cut off yet
        self._settled: dict[str, int] = {}  # recordings with a noted answer, and since which round
        self._found = Comparison()
        self._checked = 0  # receipts
        self._calls: Counter[tuple[str, str]] = Counter()

    def run(self, rounds: int) -> None:
        """All rounds and the end, or up to the first round in which something was wrong."""
        variants = [*VARIANTS, *self._chance.choices(VARIANTS, k=rounds)][:rounds]
        self._chance.shuffle(variants)
        with Handler(self._book, self._chance.getrandbits(32)) as handler:
            try:
                for number, variant in enumerate(variants, 1):
                    self._round(number, variant, handler)
                    # A start that is killed early may have no time to tell what it repaired.
                    told_by_listen = variants[number : number + 1] not in ([], ["starting"], ["beside another"])
                    self._check(number, handler, open_it=not told_by_listen or self._chance.random() < 0.5)
                    self._summary.rounds += 1
                    self._summary.variants[variant] = self._summary.variants.get(variant, 0) + 1
                    if self._wrong:
                        return
                self._finish(handler)
            except (TimeoutError, RuntimeError) as failure:
                self._wrong.append(str(failure))
            finally:
                self._wrong += handler.wrong + self._book.wrong
                self._sum_up(handler)
                for port in self._ports:
                    port.close()

    def _round(self, number: int, variant: str, handler: Handler) -> None:
        """Start, load, kill."""
        flapping = self._prepare(handler)
        over = threading.Event()
        before = len(self._book.acknowledged)
        self._book.large = LARGE_TO_TEAR if variant == "writing" else LARGE
        with self._listening(number, "a", handler, variant) as listen:
            senders = self._senders(0, over)
            try:
                if variant == "starting":
                    self._let_run(self._chance.uniform(0.05, 1.2), handler, flapping)
                else:
                    wait_until(
                        lambda: len(self._book.acknowledged) > before or listen.process.poll() is not None,
                        "the first acknowledgement",
                    )
                    if variant == "beside another":
                        self._beside(number, listen, handler)
                    else:
                        self._let_run(self._moment(), handler, flapping)
                    if variant == "writing":
                        self._wait_for_a_write()
                if listen.process.poll() is not None and variant != "beside another":
                    self._wrong.append(f"listen ended by itself with {listen.process.returncode}")
                if variant == "stopped":
                    listen.process.send_signal(signal.SIGSTOP)
                    time.sleep(self._chance.uniform(0.0, 0.02))
                listen.kill()
            finally:
                over.set()
                self._wrong += end(senders)
            self._expect_quiet(listen)
        if listen.ready is not None:
            self._expect_told(listen)

    def _beside(self, number: int, listen: Listening, handler: Handler) -> None:
        """Kill the first one while a second one runs in the same directory, then the second one."""
        over = threading.Event()
        with self._listening(number, "b", handler, "running") as second:
            second.wait_ready()
            senders = self._senders(1, over)
            try:
                self._let_run(self._chance.uniform(0.05, 1.0), handler, False)
                listen.kill()
                torn = Journal.open(self._recordings).torn  # an opening beside one that writes
                self._summary.torn_lines += len(torn)
                before = len(self._book.acknowledged)
                wait_until(lambda: len(self._book.acknowledged) > before, "the second one still acknowledges")
                self._let_run(self._chance.uniform(0.05, 0.5), handler, False)
                if self._chance.random() < 0.3:
                    if (code := second.stop()) != 0:
                        self._wrong.append(f"Ctrl-C ended the second listen with {code}")
                else:
                    second.kill()
            finally:
                over.set()
                self._wrong += end(senders)
            self._expect_quiet(second)

    def _prepare(self, handler: Handler) -> bool:
        """Put the handler into some state; gives whether it is to change in the middle of the round."""
        handler.mode = self._chance.choice(("ok", "ok", *handler.MODES))
        if self._chance.random() < 0.3:
            handler.down()
        else:
            handler.up()
        return self._chance.random() < 0.3

    def _wait_for_a_write(self) -> None:
        """Return in the middle of a line, if one is seen soon."""
        newest = max((self._recordings / "journal").glob("session-*.jsonl"))
        before = sys.getswitchinterval()
        sys.setswitchinterval(0.0001)
        try:
            with newest.open("rb", buffering=0) as file:
                deadline = time.monotonic() + _WRITE_SECONDS
                while time.monotonic() < deadline:
                    file.seek(-1, 2)
                    if file.read(1) not in (b"\n", b""):
                        return
        finally:
            sys.setswitchinterval(before)

    def _moment(self) -> float:
        """Seconds from the first acknowledgement to the kill: 0.05 to 1.5, most often the shorter half."""
        return min(1.5, 0.05 + self._chance.expovariate(1 / 0.4))

    def _let_run(self, seconds: float, handler: Handler, flapping: bool) -> None:
        time.sleep(seconds / 2)
        if flapping and handler.is_up:
            handler.down()
        elif flapping:
            handler.up()
        time.sleep(seconds / 2)

    def _listening(self, number: int, which: str, handler: Handler, variant: str) -> Listening:
        def told(happening: dict[str, Any]) -> None:
            if happening["type"] == "pending" and happening["resumed"]:
                self._summary.resumed += len(happening["recordings"])

        return Listening(
            self._directory,
            self._ports[which == "b"].getsockname()[1],
            *("--resume", "--forward", f"{handler.url}/{number}{which}"),
            segment_bytes=SMALL_SEGMENT if variant == "rotating" else None,
            told=told,
        )

    def _senders(self, port: int, over: threading.Event) -> list[Sender]:
        address = Address(self._ports[port].getsockname()[1], self._path)
        gap = self._chance.choice(GAPS)
        senders = [Sender(address, self._book, over, self._chance.getrandbits(32), gap) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        return senders

    def _expect_quiet(self, listen: Listening) -> None:
        if listen.errors:
            self._wrong.append(f"listen wrote to standard error: {''.join(listen.errors)[:2000]}")

    def _expect_told(self, listen: Listening) -> None:
        """What the last kill had left torn is told by the next start."""
        for path in self._torn:
            if not any("in the middle of a write" in told and str(path) in told for told in listen.troubles):
                self._wrong.append(f"listen did not tell that it cut a torn line off {path}")
        self._expect_cut(self._torn)

    def _expect_cut(self, torn: Iterable[Path]) -> None:
        """These are cut off and set aside, and forgotten here."""
        left = torn_lines(self._recordings)
        for path in list(torn):
            aside = path.with_suffix(".torn")
            if path in left:
                self._wrong.append(f"the torn line of {path} was not cut off")
            elif not aside.exists() or aside.read_bytes() != self._torn[path]:
                self._wrong.append(f"the torn line of {path} was not set aside")
            del self._torn[path]

    def _look_for_torn_lines(self) -> None:
        now = torn_lines(self._recordings)
        # A start that was killed before it could tell may have cut off what was torn.
        self._expect_cut(self._torn.keys() - now.keys())
        self._summary.torn_lines += len(now.keys() - self._torn.keys())
        self._torn = now

    def _check(self, number: int, handler: Handler, open_it: bool) -> None:
        """Hold the journal against what the senders and the handler know."""
        self._look_for_torn_lines()
        if open_it:
            journal = Journal.open(self._recordings)
            if {torn.path for torn in journal.torn} != set(self._torn):
                self._wrong.append(f"opening told of the torn lines {journal.torn}, not of {list(self._torn)}")
            self._expect_cut(self._torn)
        else:
            journal = Journal(self._recordings)
        found = self._found = self._book.compare(journal.recordings())
        self._wrong += found.wrong
        self._summary.missing += len(found.missing)
        for path, problems in journal.unreadable.items():
            self._summary.unreadable += 1
            self._wrong.append(f"{path} has unreadable lines: {problems}")
        receipts = handler.receipts[self._checked :]
        self._checked += len(receipts)
        for receipt in receipts:
            caller = int(receipt.caller[:-1])
            self._calls[receipt.caller, receipt.recording] += 1
            if self._calls[receipt.caller, receipt.recording] == 2:
                self._wrong.append(f"recording {receipt.recording} was handed over twice by run {receipt.caller}")
            if self._settled.get(receipt.recording, caller) < caller:
                self._wrong.append(
                    f"recording {receipt.recording}, which was noted, went to {receipt.caller} again"
                )
        for attempt in noted_attempts(self._recordings):
            if attempt.settles:
                self._settled.setdefault(attempt.recording, number)

    def _finish(self, handler: Handler) -> None:
        """After the last kill an orderly session hands over all that waits."""
        handler.mode = "ok"
        handler.up()
        recorded = {recording.id for recording in Journal(self._recordings).recordings()}
        looked_at = len(handler.receipts)
        received = {receipt.recording for receipt in handler.receipts[:looked_at]}
        if received - recorded:
            self._wrong.append(f"the handler got what is not recorded: {sorted(received - recorded)[:20]}")
        waiting = recorded - received - set(self._settled)

        def all_received() -> bool:
            nonlocal looked_at
            new = handler.receipts[looked_at:]
            looked_at += len(new)
            waiting.difference_update(receipt.recording for receipt in new)
            return not waiting

        with self._listening(10**6, "a", handler, "running") as listen:
            listen.wait_ready()
            try:
                wait_until(all_received, "the handler got all that was pending", 30 + len(waiting) / 50)
            except TimeoutError as failure:
                raise TimeoutError(f"{failure}; it did not get {len(waiting)}: {sorted(waiting)[:20]}") from None
            if (code := listen.stop()) != 0:
                self._wrong.append(f"Ctrl-C ended listen with {code}")
            self._expect_quiet(listen)
        if listen.stopped is None or listen.stopped["pending"]:
            self._wrong.append(f"the orderly session ended with {listen.stopped}")
        self._check(10**6, handler, open_it=True)
        expected = min(LISTED, self._found.recordings)
        if (listed := listed_recordings(self._directory)) != expected:
            self._wrong.append(f"`b24tunnel list -n {LISTED}` shows {listed} recordings, not {expected}")
        if pending := Journal.open(self._recordings).pending():
            self._wrong.append(f"{len(pending)} are still pending at the end: {pending[:20]}")

    def _sum_up(self, handler: Handler) -> None:
        found = self._found
        self._summary.sent += len(self._book.sent)
        self._summary.acknowledged += len(self._book.acknowledged)
        self._summary.recorded += found.recordings
        self._summary.recorded_unacknowledged += found.unacknowledged
        self._summary.handed_over += len(handler.receipts)
        self._summary.again += len(handler.receipts) - len({receipt.recording for receipt in handler.receipts})


def torn_lines(recordings: Path) -> dict[Path, bytes]:
    """The files whose last line is incomplete, each with what there is of that line."""
    found = {}
    for path in (recordings / "journal").glob("session-*.jsonl"):
        with path.open("rb") as file:
            if file.seek(0, 2) and (file.seek(-1, 2), file.read())[1] != b"\n":
                found[path] = path.read_bytes().rpartition(b"\n")[2]
    return found


def listed_recordings(directory: Path) -> int:
    """How many of the last recordings the command line shows; -1 when it fails."""
    command = [sys.executable, "-m", "b24tunnel", "list", "--json", "-n", str(LISTED)]
    done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, timeout=DEADLINE)
    return done.stdout.count(b"\n") if done.returncode == 0 else -1


def soak(rounds: int, seed: int) -> Summary:
    """All rounds, or those up to the first in which something was wrong; then the directory is kept."""
    chance = random.Random(seed)
    summary = Summary()
    start = time.monotonic()
    while summary.rounds < rounds and not summary.wrong:
        directory = Path(tempfile.mkdtemp(prefix="b24tunnel-kills-"))
        Era(directory, chance, summary).run(min(ROUNDS_A_DIRECTORY, rounds - summary.rounds))
        if summary.wrong:
            summary.directory = str(directory)
        else:
            shutil.rmtree(directory)
        summary.seconds = round(time.monotonic() - start, 1)
        print(
            f"{summary.seconds:.0f} s: {summary.rounds} of {rounds} rounds, {summary.acknowledged} acknowledged, "
            f"{summary.missing} missing, {summary.torn_lines} torn, {summary.resumed} resumed",
            file=sys.stderr,
            flush=True,
        )
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    chosen = telling.options(parser)
    return telling.tell(soak(chosen.rounds, chosen.seed), chosen)


if __name__ == "__main__":
    sys.exit(main())
