"""An environment for child processes in which no settings of DVC and git count but those of the test."""

import os
import sys
from pathlib import Path


def isolated_environment(place: Path) -> dict[str, str]:
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
