"""An environment for child processes in which nothing of the user's own DVC and git settings counts."""

import os
import sys
from pathlib import Path


def without_settings(place: Path) -> dict[str, str]:
    """Variables that keep DVC's and git's settings in the folder `place`, where a git user is written down."""
    (place / "gitconfig").write_text("[user]\nname = t\nemail = t@example.org\n[init]\ndefaultBranch = main\n")
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(place / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(place / "system"),
        "DVC_SITE_CACHE_DIR": str(place / "site"),
        "GIT_CONFIG_GLOBAL": str(place / "gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
    }
