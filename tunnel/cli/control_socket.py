"""Where settings say that the control socket is, whatever else is wrong with them.

A verb asks the program that runs: what was written since, well or badly, is not its matter.
"""

import os
from pathlib import Path
from typing import Any

from tunnel.settings.client_schema import CLIENT
from tunnel.settings.documents import Sources, read_documents
from tunnel.settings.reader import Circumstances, Reading
from tunnel.settings.relay_schema import RELAY


def socket_in_settings(program: str, config: Path) -> tuple[Path | None, Path | None]:
    """Return `admin.socket`, None where it is not written, and the state directory.

    Raises SettingsError for what is no TOML, OSError for a file that cannot be read.
    """
    schema = RELAY if program == "relay" else CLIENT
    tree = read_documents(Sources(config))
    values: dict[str, Any] = Reading(schema, tree, Circumstances(os.environ, is_check=True)).values
    return values["admin"].get("socket"), values[program].get("state_dir")
