"""Keys: random, kept as hashes, looked for in a file that says what is wrong with it."""

from pathlib import Path

import pytest

from lekhani.errors import UsageError
from lekhani.serve.keys import Keys, is_loopback, new_key


def test_a_new_key_opens_with_its_line_and_no_other_does(tmp_path: Path) -> None:
    (mine, line), (other, second) = new_key("mine"), new_key("other-team.1")
    assert mine != other
    assert len(mine) >= 43, "256 bits in base64"
    assert mine not in line
    file = tmp_path / "keys"
    file.write_text(f"# who may write\n\n{line}\n{second}\n")
    keys = Keys(file)
    assert (keys.holder(mine), keys.holder(other)) == ("mine", "other-team.1")
    for guess in ("", mine[:-1], mine + "x", line, line.rpartition(":")[2], "क", "\udcff"):
        assert keys.holder(guess) is None


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"cannot be read .* make one with"),
        (b"\xff\xfe", "cannot be read"),
        (b"# nothing\n", r"holds no key; make one"),
        (b"team sha256:abc\n", r"line 1: a key's line is `NAME sha256:HEX`"),
        (f"a sha256:{'0' * 64}\n#\na sha256:{'1' * 64}\n".encode(), "line 3: there is a key named a already; give"),
    ],
)
def test_a_file_without_keys_is_a_sentence(tmp_path: Path, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(UsageError, match=match):
        Keys(tmp_path / "keys")


def test_a_name_must_fit_in_the_line() -> None:
    for name in ("", "two words", "x" * 65, "a\nb"):
        with pytest.raises(UsageError, match="cannot be named"):
            new_key(name)


def test_which_addresses_are_this_machines_own() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))
