"""Models on the Hugging Face hub: `generator.onnx`, its `judge.onnx` and a card, under a name such as `owner/name`.

The token, the cache and the address (HF_TOKEN, HF_HOME, HF_ENDPOINT) are those of huggingface_hub.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

from lekhani.errors import LekhaniError, UsageError, first_line, outside_failure
from lekhani.inference.session import LoadedModel

GENERATOR, JUDGE, CARD, PICTURE = "generator.onnx", "judge.onnx", "README.md", "grid.png"


def download(name: str) -> Path:
    """The folder of the newest files of a model; what is in the hub's cache is not fetched again.

    Raises LekhaniError when the hub does not answer, or has no such model with a generator.
    """
    with _errors(name, "be loaded from"):
        folder = Path(snapshot_download(name, allow_patterns=[GENERATOR, JUDGE, CARD]))
    if not (folder / GENERATOR).is_file():
        raise LekhaniError(f"{name} on the Hugging Face hub has no {GENERATOR}; name a model that Lekhani published.")
    return folder


def push(model: LoadedModel, name: str, *, private: bool = False) -> str:
    """Publish a model with its judge and its card, and return the address; other files there stay as they are.

    A registered model has its card beside it; others get a short one. Raises UsageError for a malformed name, and
    LekhaniError when the hub refuses, where nothing is changed: all files come with one commit.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UsageError(f"{name!r} is no name on the Hugging Face hub; write it as owner/name.")
    source, api = model.generator.path, HfApi()
    kept = {file: source.with_name(file) for file in (CARD, PICTURE)}
    paths = {GENERATOR: source} | {file: path for file, path in kept.items() if path.is_file()}
    if model.reader is not None:
        paths[JUDGE] = model.reader.path
    with tempfile.TemporaryDirectory() as temporary, _errors(name, "be published on"):
        folder = Path(temporary)
        for file, path in paths.items():
            shutil.copyfile(path, folder / file)
        card = paths[CARD].read_text(encoding="utf-8") if CARD in paths else _card(model, name)
        # Where our registry is says nothing to others.
        card = re.sub(r"(?<=set_tracking_uri\().*(?=\))", '"http://mlflow.example.org"', card)
        (folder / CARD).write_text(card, encoding="utf-8")
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=model.origin)
    return f"{api.endpoint}/{name}"


def _card(model: LoadedModel, name: str) -> str:
    generator, size = model.generator, model.generator.image_size
    code = f'import lekhani\n\nlekhani.load("{name}").generate(["{model.classes[0].glyph}"], n=8)'
    return (
        "---\ntags: [handwriting, onnx]\n---\n\n"
        f"# {name}\n\nA generator ({generator.variant}) of single glyphs by hand, {size} x {size} pixels, white on "
        f"black, trained on {generator.dataset}: {' '.join(c.glyph for c in model.classes)}\n\n```python\n{code}\n```\n"
    )


@contextmanager
def _errors(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except RepositoryNotFoundError:
        problem = f"There is no {name} on the Hugging Face hub, or it is private"
        raise LekhaniError(f"{problem}; check the name, and log in with `hf auth login`.") from None
    except Exception as error:
        if outside_failure(error) is None:
            raise
        problem = f"{name} could not {what} the Hugging Face hub: {first_line(error).rstrip('.')}"
        raise LekhaniError(f"{problem}; check the connection and HF_TOKEN, and run again.") from error
