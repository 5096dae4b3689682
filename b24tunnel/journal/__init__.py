"""The journal: append-only files of recordings and attempts, a session a file, under `recordings/journal/`."""

from b24tunnel.journal.attempts import History
from b24tunnel.journal.extent import FileTakenAway
from b24tunnel.journal.files import JournalUnreadable, LaterFormat, TornLine
from b24tunnel.journal.reader import Journal
from b24tunnel.journal.recorded_answers import RecordedAnswers, recorded_answer
from b24tunnel.journal.runs import Delivered, Run
from b24tunnel.journal.tail import Tail, follow, follow_directory, rest, rest_unread
from b24tunnel.journal.writer import JournalUnwritable, JournalWriter

__all__ = [
    "Delivered",
    "FileTakenAway",
    "History",
    "Journal",
    "JournalUnreadable",
    "JournalUnwritable",
    "JournalWriter",
    "LaterFormat",
    "RecordedAnswers",
    "Run",
    "Tail",
    "TornLine",
    "follow",
    "follow_directory",
    "recorded_answer",
    "rest",
    "rest_unread",
]
