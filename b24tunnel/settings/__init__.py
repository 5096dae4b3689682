"""What a project and its user have settled once: ``b24tunnel.toml`` in the project, ``settings.toml`` in the home.

Both have the same form; where they say different things the project's holds. Secrets belong into the user's
file, because the project's is committed.
"""

from b24tunnel.settings.files import PROJECT_FILE, USER_FILE, nearest_file
from b24tunnel.settings.project import OriginSettings, ProjectSettings, Settled, read_settings

__all__ = [
    "PROJECT_FILE",
    "USER_FILE",
    "OriginSettings",
    "ProjectSettings",
    "Settled",
    "nearest_file",
    "read_settings",
]
