"""API keys: random tokens, of which the server stores only hashes."""

import hashlib
import hmac
import ipaddress
import re
import secrets
from pathlib import Path

from lekhani.errors import UsageError, reason
from lekhani.files import read_input

MAX_BYTES = 16 << 20  # of a file of keys
_LINE = re.compile(r"(?P<name>[\w.-]{1,64}) sha256:(?P<digest>[0-9a-f]{64})")


def new_key(name: str) -> tuple[str, str]:
    """A key of 256 random bits, and the line for the file of keys that lets it in."""
    key = f"lk_{secrets.token_urlsafe(32)}"
    line = f"{name} sha256:{_digest(key)}"
    if not _LINE.fullmatch(line):
        raise UsageError(f"A key cannot be named {name!r}; take letters, digits, dots and dashes, 64 at most.")
    return key, line


class Keys:
    """The keys in a file, a line `NAME sha256:HEX` each; empty lines and those that start with # are ignored."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises UsageError when it cannot be read, holds no key, a malformed line or a name twice."""
        try:
            lines = read_input(path, MAX_BYTES).decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problem = f"The keys in {path} cannot be read ({reason(error)})"
            raise UsageError(f"{problem}; make one with `lekhani serve --new-key NAME`.") from error
        self._digests: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                found = _LINE.fullmatch(line.strip())
                if found is None:
                    problem = f"{path}, line {number}: a key's line is `NAME sha256:HEX`,"
                    raise UsageError(f"{problem} as `lekhani serve --new-key NAME` prints it.")
                if found["name"] in self._digests:
                    problem = f"{path}, line {number}: there is a key named {found['name']} already"
                    raise UsageError(f"{problem}; give this one another name, or remove the old one.")
                self._digests[found["name"]] = found["digest"]
        if not self._digests:
            raise UsageError(f"{path} holds no key; make one with `lekhani serve --new-key NAME`.")

    def holder(self, key: str) -> str | None:
        """The name of the key's holder, None for an unknown key; the time this takes is no hint for a guess."""
        given = _digest(key)
        found = [name for name, digest in self._digests.items() if hmac.compare_digest(digest, given)]
        return found[0] if found else None


def required_keys(path: Path | None, host: str) -> Keys | None:
    """The keys in the file `path`, None without one; raises UsageError without one where others can reach `host`."""
    if path is not None:
        return Keys(path)
    if not is_loopback(host):
        problem = f"On {host} others can reach the API, so it needs --keys FILE"
        raise UsageError(f"{problem}; make a key with `lekhani serve --new-key NAME`.")
    return None


def _digest(key: str) -> str:
    # A key is 256 random bits, which nobody guesses however fast the hash: it needs no salt and no stretching.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
