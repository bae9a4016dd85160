"""A corpus of inputs that hypothesis draws: commands, files and requests end soon, as asked for or in a sentence."""

import base64
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import live_server
import numpy as np
import pytest
import requests
import yaml
from forking import Commands
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from sources import encoded, glyph, gzipped, idx, npy, npz, parquet, pixel_header, pixel_rows, table, tarred, zipped
from toy_judge import toy_judge

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("LEKHANI_CORPUS_SECONDS", "10"))
SHARE = float(os.environ.get("LEKHANI_CORPUS_SHARE", "1"))
TEMPORARY = re.compile(r"\.(tmp|part|partial|lock)\b|~$|^tmp")

# --- what commands are given ---

NUMBERS = ["1", "2", "3", "0", "-1", "1.5", "nan", "inf", "-0.0", "1e309", "0x10", "1_0", "५", "", " 2", "2 ", "1" * 20]
NUMBERS += [
    "1000000000",
    "9223372036854775807",
    "9223372036854775808",
    "1" * 5000,
    "--",
    "None",
    "0.25",
    "1e-300",
    "64",
]
TEXTS = [
    "0 12",
    "210",
    "42",
    "कमल",
    "क",
    "७ ८",
    " ",
    "\n",
    "नमस्ते",
    "₹ १,२५०",
    "abc",
    "🖋",
    "\udcff",
    "\u200d",
    "क\u094d",
    "९" * 300,
]
TEXTS += ["\t\r", "0\u0301", "\u202e12", "=cmd()", "../x", "-", "%s%n", "'; drop table", "क" * 3000, "१२/३/२०२६"]
FILES = [
    "nothing",
    "empty",
    "nul",
    "sparse",
    "folder",
    "fifo",
    "dangling",
    "loop",
    "utf16.txt",
    "lines.txt",
    "long.txt",
]
FILES += ["latin1.txt", "letter.png", "blank.png", "noise.png", "bomb.png", "cut.png", "moving.gif", "deep.png"]
FILES += ["thin.png", "dot.png", "cmyk.jpg", "picture.svg", "counts.csv", "huge.csv", "odd.csv", "bomb.zip", "keys"]
FILES += ["generator.onnx", "judge.onnx", "broken.onnx", "cut.onnx", "params.yaml", "list.yaml", "bomb.yaml"]
ELSEWHERE = [
    "/dev/null",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/mem",
    "",
    ".",
    "x" * 300,
    "\udcff",
    "\u0915/../..",
    "-",
]
OUTS = [
    "o",
    "o.png",
    "o.gif",
    "o.webp",
    "o.PNG",
    "a/b/o",
    "",
    ".",
    "..",
    "/dev/null",
    "/dev/full",
    "/proc/o",
    "x" * 300,
]
OUTS += [
    "o.png/o",
    "o\n",
    "\udcff",
    "~/o",
    "local://o",
    "file://o",
    "ftp://127.0.0.1:1/o",
    "github://a:b@c/o",
    "memory://o",
]
OUTS += ["http://127.0.0.1:1/o", "s3://", "zip://o", "नमस्ते", "o?x#y", "{}/o", "::"]

number = st.sampled_from(NUMBERS[:3]) | st.sampled_from(NUMBERS)
text = (
    st.sampled_from(TEXTS)
    | st.text("कखग०१२ ािे्,.", max_size=8)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
)
file = st.sampled_from(FILES).map("../zoo/{}".format) | st.sampled_from(ELSEWHERE)
out = st.sampled_from(OUTS[:4]) | st.sampled_from(OUTS)
dataset = st.sampled_from(
    ["devanagari", "mnist", "devanagari@drifting"] * 2 + ["x", "", "../x", "mnist:1", "d@x", "\udcff"]
)
label = (
    st.sampled_from(
        ["0=1", "1=2", "2", "क=1", "०=2", "क", "1", "=", "क=-1", "क=1e9", f"क={10**20}", "==", "x=1", "class_1=1"]
    )
    | text
)
model = st.just("../zoo/generator.onnx") | file
judge = st.just("../zoo/judge.onnx") | file
FLAG = st.none()


def of(*words: str) -> st.SearchStrategy[str]:
    return st.sampled_from([*words, "x", ""])


WRITER = {"--seed": number, "--model": model, "--judge": judge, "--dataset": dataset, "--min-confidence": number}
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "generate": {
        **WRITER,
        "--label": label,
        "--each": number,
        "--total": number,
        "--from-csv": file,
        "--format": of("png", "imagefolder", "parquet", "webdataset", "idx", "npz"),
        "--truncation": number,
        "--shard-size": number,
        "--overwrite": FLAG,
    },
    "compose": {
        **WRITER,
        "--text": text,
        "--pattern": of("pin_code", "date", "[०-९]{6}", "(", "[^", "a{99999}", "((((.*)*)*)*)*", "\\p{L}", ".{1,9}"),
        "--lines": file,
        "--skip-unwritable": FLAG,
        "--count": number,
        "--layout": of("tesseract", "paddleocr", "huggingface"),
        "--height": number,
        "--variety": number,
        "--no-join": FLAG,
        "--augment": of("none", "light", "strong"),
        "--without": of("ink", "paper", "blur", "perspective"),
        "--light-on-dark": FLAG,
        "--paper": of("plain", "ruled", "squared"),
        "--background": file,
        "--learned-only": FLAG,
        "--hands": number,
        "--overwrite": FLAG,
    },
    "recognise": {"--force": FLAG, "--dataset": dataset, "--judge": judge, "--top": number, "--json": FLAG},
    "translate": {
        **WRITER,
        "--to": dataset,
        "--from": dataset,
        "--reader": judge,
        "--scale": number,
        "--force": FLAG,
        "--json": FLAG,
    },
    "animate": {
        "--label": label,
        "--seed": number,
        "--columns": number,
        "--fps": number,
        "--scale": number,
        "--model": model,
        "--dataset": dataset,
    },
    # The address is no one's, so that a server which would start ends too.
    "serve": {
        "--keys": file,
        "--limit": of("images=1", "x=1", "images=", "images=1e400"),
        "--model": model,
        "--judge": judge,
    },
    "params": {"--schema": FLAG},
    "models": {"--dataset": dataset, "--json": FLAG},
    "lineage": {"--data": text},
    "register": {"--dataset": dataset, "--variant": text},
    "promote": {"--dataset": dataset, "--version": number, "--check": FLAG, "--workspace": FLAG, "--report": file},
    "rollback": {"--dataset": dataset, "--reason": text},
    "data-diff": {"--dataset": dataset, "--to": text, "--format": of("text", "md"), "--examples": number},
    "compare": {"--experiment": text},
    "fetch": {"--dataset": dataset},
    "evaluate": {"--dataset": dataset, "--variant": text},
}
NEEDS_OUT = {"generate", "compose", "translate", "animate"}
ARGUMENTS = {"recognise": file, "translate": file, "lineage": text, "data-diff": text}
OFTEN = ["generate", "compose", "recognise", "translate", "animate"]


@st.composite
def command(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(OFTEN) | st.sampled_from(sorted(OPTIONS)))
    words = ["--params", draw(file)] if draw(st.integers(0, 5)) == 0 else []
    words.append(name)
    if name == "serve":
        words += ["--host", "192.0.2.1"]
    if name in NEEDS_OUT:
        words += ["--out", draw(out)]
    if name in ("generate", "compose") and draw(st.integers(0, 9)):  # the pretrained one takes seconds to open
        words += ["--model", "../zoo/generator.onnx", "--judge", "../zoo/judge.onnx"]
    for option in draw(st.lists(st.sampled_from(sorted(OPTIONS[name])), max_size=5)):
        value = draw(OPTIONS[name][option])
        words += [option] if value is None else [option, value]
    if name in ARGUMENTS:
        words += draw(st.lists(ARGUMENTS[name], min_size=1, max_size=3 if name == "recognise" else 1))
    return words


def zoo(folder: Path) -> None:
    """Files as they are, and as they should not be."""
    folder.mkdir()

    def write(name: str, content: bytes | str) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    write("empty", b"")
    write("nul", bytes(2_000_000))
    with (folder / "sparse").open("wb") as sparse:
        sparse.truncate(8 << 30)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "dangling").symlink_to("gone")
    (folder / "loop").symlink_to("loop")
    write("utf16.txt", "क ख".encode("utf-16"))
    write("lines.txt", "क ख\n४२\nabc\nनमस्ते\n\n")
    write("long.txt", "क" * 2_000_000)
    write("latin1.txt", "é".encode("latin-1"))
    ink = np.full((60, 50), 240, np.uint8)
    ink[10:50, 20:26], ink[10:16, 10:40] = 20, 20
    write("letter.png", encoded(ink))
    write("blank.png", encoded(np.full((40, 40), 250, np.uint8)))
    write("noise.png", encoded(np.random.default_rng(1).integers(0, 256, (300, 300), dtype=np.uint8)))
    write("bomb.png", encoded(Image.new("1", (30_000, 30_000))))
    write("cut.png", encoded(ink)[:-20])
    write(
        "moving.gif", encoded(Image.fromarray(ink), "GIF", save_all=True, append_images=[Image.new("L", (50, 60))] * 3)
    )
    write("deep.png", encoded(ink.astype(np.uint16) * 200))
    write("thin.png", encoded(np.zeros((1, 4000), np.uint8)))
    write("dot.png", encoded(np.zeros((1, 1), np.uint8)))
    write("cmyk.jpg", encoded(Image.fromarray(ink).convert("CMYK"), "JPEG"))
    write("picture.svg", "<svg/>")
    write("counts.csv", "label,count\nक,2\n०,1\n")
    write("huge.csv", f"label,count\nक,{10**30}\nख,1000000000\n")
    write("odd.csv", 'label,count\n"क,\x00\n\n,,,\n')
    write("bomb.zip", zipped({"a.png": bytes(50_000_000)}))
    write("keys", "a:b\n\x00")
    write("broken.onnx", np.random.default_rng(2).bytes(3000))
    write("list.yaml", "- 1\n- 2\n")
    write(
        "bomb.yaml",
        "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
    )
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, toy_generator: Any) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    zoo(folder / "zoo")
    toy_generator(folder / "zoo" / "generator.onnx")
    toy_judge(folder / "zoo" / "judge.onnx")
    content = (folder / "zoo" / "generator.onnx").read_bytes()
    (folder / "zoo" / "cut.onnx").write_bytes(content[: len(content) // 2])
    return folder


@pytest.fixture(scope="module")
def commands(home: Path) -> Iterator[Commands]:
    with Commands(home) as running:
        yield running


def listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Wrong(list[str]):
    """What went wrong: collected rather than raised, so that one run shows all of it."""

    @contextmanager
    def collecting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.append(f"{type(error).__name__}: {error}"[:3000])

    def end(self) -> None:
        assert not self, f"{len(self)} inputs:\n\n" + "\n\n".join(self[:100])


def checked(done: dict[str, Any], words: list[str]) -> int:
    """Its exit code, which is one of ours; a refusal comes as a sentence, and no bug shows."""
    shown = words, done["code"], done["seconds"], done["err"][-3000:]
    assert done["code"] in (0, 1, 2, 3), shown
    assert "Traceback" not in done["err"], shown
    if done["code"]:
        # typer draws a box around what is wrong with an option
        last = [line.strip("│ ") for line in done["err"].splitlines() if re.search(r"[\w.]", line)][-1:]
        assert last, shown
        assert last[0].endswith((".", ":", "?")) or "╰" in done["err"] or "failed" in last[0], shown
        assert len(done["err"]) < 20_000, shown
    return int(done["code"])


def examples(count: int) -> Any:
    few = max(1, round(SHARE * count))
    return settings(
        max_examples=few,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # all that is wrong is listed at the end, and a hang would be tried again and again
        suppress_health_check=list(HealthCheck),
    )


def test_commands(home: Path, commands: Commands) -> None:
    before, codes, wrong = listed(home / "zoo"), dict.fromkeys(range(4), 0), Wrong()

    @examples(900)
    @given(command())
    def each(words: list[str]) -> None:
        with tempfile.TemporaryDirectory(dir=home) as temporary, wrong.collecting():
            folder = Path(temporary)
            code = checked(commands.run(folder, words, SECONDS), words)
            codes[code] += 1
            left = listed(folder)
            assert not code or not left, (words, left)
            assert not [name for name in left if TEMPORARY.search(Path(name).name)], (words, left)

    each()
    wrong.end()
    assert listed(home / "zoo") == before
    assert codes[0] > 0.03 * sum(codes.values()), codes


# --- datasets whose files were changed ---

LABELS = [0, 1, 2] * 6
PICTURES = [encoded(glyph(150 + 5 * i)) for i in range(18)]
NAMED = {f"{label}/{i}.png": picture for i, (label, picture) in enumerate(zip(LABELS, PICTURES, strict=True))}
STACK = np.stack([glyph(150 + 5 * i) for i in range(18)])
CSV = table(pixel_rows(LABELS), [*pixel_header(), "label"])
NAMES = table([(f"{i}.png", label) for i, label in enumerate(LABELS)], ["image", "label"])
SOUND: dict[str, dict[str, bytes]] = {
    "folders": NAMED,
    "zip": {"own.zip": zipped(NAMED)},
    "tar": {"own.tar.gz": tarred(NAMED)},
    "idx": {"a-images-idx3-ubyte": idx(STACK), "a-labels-idx1-ubyte": idx(np.array(LABELS))},
    "idx.gz": {"a-images-idx3-ubyte.gz": gzipped(idx(STACK)), "a-labels-idx1-ubyte.gz": gzipped(idx(np.array(LABELS)))},
    "csv": {"own.csv": CSV},
    "csv.gz": {"own.csv.gz": gzipped(CSV)},
    "npz": {"own.npz": npz(images=STACK, labels=np.array(LABELS))},
    "npy": {"images.npy": npy(STACK), "labels.npy": npy(np.array(LABELS))},
    "parquet": {"own.parquet": parquet(LABELS, ["a", "b", "c"])},
    "labels": {"labels.csv": NAMES, **{f"images/{i}.png": picture for i, picture in enumerate(PICTURES)}},
}
KEYS: dict[str, list[Any]] = {
    "label_column": ["label", "x", "", 3, None],
    "files": ["*.csv", "**", "", "[", "../*", None],
    "value_range": [[0, 255], [0, 1], [1, 0], [0, 0], "x", None],
    "label_in_name": [r"(\d+)", "(", "(?P<label>.)", "(a*)*b", None],
    "transposed": [True, False, None],
    "image_size": [32, 16, 0, 10**9, "x"],
    "test_fraction": [0.2, 0, 1, -1, float("nan")],
    "classes": ["all", "digits", ["0", "1"], [], "x"],
    "script": ["Devanagari", "", "x" * 500],
}
change = st.tuples(
    st.sampled_from(["cut", "flip", "nul", "twice", "drop", "rename", "insert", "swap"]),
    st.integers(0, 99),
    st.floats(0, 1),
    st.sampled_from(
        ["x", "own.csv", "a/b/c.png", "labels.csv", "test/0/1.png", "own (1).zip", "\u0915.png", "own.pkl"]
    ),
)


def damaged(files: dict[str, bytes], changes: list[tuple[str, int, float, str]]) -> dict[str, bytes]:
    files = dict(files)
    for kind, which, where, name in changes:
        if not files:
            break
        path = sorted(files)[which % len(files)]
        content = files[path]
        at = round(where * len(content))
        match kind:
            case "cut":
                files[path] = content[:at]
            case "flip":
                files[path] = content[:at] + bytes(255 - byte for byte in content[at : at + 4]) + content[at + 4 :]
            case "nul":
                files[path] = content[:at] + bytes(len(content) - at)
            case "twice":
                files[path] = content + content
            case "drop":
                del files[path]
            case "rename":
                files[name] = files.pop(path)
            case "insert":
                files[path] = content[:at] + b"\xff\x00,\n" + content[at:]
            case "swap":
                other = sorted(files)[(which + 1) % len(files)]
                files[path], files[other] = files[other], files[path]
    return files


def test_files(home: Path, commands: Commands) -> None:
    choices = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    outcomes, wrong = {True: 0, False: 0}, Wrong()

    @examples(500)
    @given(
        st.sampled_from(sorted(SOUND)),
        st.lists(change, max_size=3),
        st.dictionaries(st.sampled_from(sorted(KEYS)), st.integers(0, 9), max_size=2),
        st.booleans(),
    )
    def each(kind: str, changes: list[tuple[str, int, float, str]], keys: dict[str, int], whole: bool) -> None:
        with tempfile.TemporaryDirectory(dir=home) as temporary, wrong.collecting():
            folder = Path(temporary)
            for name, content in damaged(SOUND[kind], changes).items():
                target = folder / "given" / name
                if any(parent.is_file() for parent in target.parents):
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.is_dir():
                    target.write_bytes(content)
            own = {"source": "local", "path": "given" if whole else "given/*"}
            own |= {key: KEYS[key][i % len(KEYS[key])] for key, i in keys.items()}
            mine = {**choices, "data": {"own": own}, "pipeline": {**choices["pipeline"], "datasets": ["own"]}}
            (folder / "params.yaml").write_text(yaml.safe_dump(mine), encoding="utf-8")
            shown = kind, changes, own
            for stage, made in (("fetch", "data/raw/own"), ("prepare", "data/prepared/own")):
                code = checked(commands.run(folder, [stage, "-d", "own"], SECONDS), [stage, *map(repr, shown)])
                assert (folder / made).exists() == (not code), (stage, shown)
                if code:
                    break
            outcomes[not code] += 1
            left = [name for name in listed(folder) if TEMPORARY.search(Path(name).name)]
            assert not left, (shown, left)

    each()
    wrong.end()
    assert all(outcomes.values()), outcomes


# --- requests ---

# Values that a field takes, and such that it should refuse.
SEEDS = st.integers(0, 2**63 - 1), st.sampled_from([-1, 2**63, 10**40, 1.5, "1", None, True])
COUNTS = st.integers(1, 3), st.sampled_from([0, -1, 10**4, 10**18, "1", None])
SHARES = st.floats(0, 1), st.sampled_from([-1, 2, "x", 10**400, []])
FLAGS = st.booleans(), st.sampled_from(["true", 2, None])
NAMES_OF_MODELS = st.just("mnist"), st.sampled_from(["x", "", "../x", 1, None])
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def test_requests(home: Path) -> None:
    drawn = [path.read_bytes() for path in (home / "zoo").iterdir() if path.suffix in (".png", ".gif", ".jpg")]
    small = [base64.b64encode(content).decode() for content in sorted(drawn) if len(content) < 10**6]
    image = st.sampled_from(small), st.text(max_size=30)
    bodies: dict[str, dict[str, tuple[st.SearchStrategy[Any], st.SearchStrategy[Any]]]] = {
        "/v1/generate": {
            "model": NAMES_OF_MODELS,
            "labels": (
                st.lists(st.sampled_from(["0", "1", 2]), min_size=1, max_size=4),
                st.lists(st.sampled_from(["x", "", -1, None, 1.5, 3]), max_size=4),
            ),
            "n": COUNTS,
            "seed": SEEDS,
            "min_confidence": SHARES,
            "truncation": (st.floats(0.1, 3), SHARES[1]),
        },
        "/v1/compose": {
            "model": NAMES_OF_MODELS,
            "text": (st.text("012 ", min_size=1, max_size=9).filter(str.strip), st.text(max_size=9)),
            "n": COUNTS,
            "seed": SEEDS,
            "height": (st.sampled_from([16, 64, 256]), st.sampled_from([0, 10**9, None])),
            "join": FLAGS,
            "variety": SHARES,
            "augment": (st.sampled_from(["none", "light", "strong"]), st.sampled_from(["x", None])),
            "learned_only": FLAGS,
        },
        "/v1/recognise": {"model": NAMES_OF_MODELS, "image": image, "force": FLAGS},
        "/v1/translate": {
            "model": NAMES_OF_MODELS,
            "to": NAMES_OF_MODELS,
            "image": image,
            "seed": SEEDS,
            "force": FLAGS,
        },
    }
    accepts = st.sampled_from(
        ["application/json", "image/png", "application/zip", "application/x-npz", "text/html", ",;q=x"]
    )

    @st.composite
    def request(draw: st.DrawFn) -> tuple[str, Any, dict[str, str]]:
        path = draw(st.sampled_from(sorted(bodies)))
        fields = bodies[path]
        chosen = draw(st.sets(st.sampled_from(sorted(fields)), min_size=len(fields) - 2)) | {"model"}
        bad = draw(st.sets(st.sampled_from(sorted(chosen)), max_size=2)) if draw(st.booleans()) else set()
        body: Any = {field: draw(fields[field][field in bad]) for field in sorted(chosen)}
        if draw(st.integers(0, 9)) == 0:
            body = draw(junk)
        return path, body, {"Accept": draw(accepts)} if draw(st.booleans()) else {}

    statuses: dict[int, int] = {}
    wrong = Wrong()
    zoo_files = home / "zoo"
    words = ["--model", str(zoo_files / "generator.onnx"), "--judge", str(zoo_files / "judge.onnx")]
    with live_server.server(home / "server", *words) as (address, _):
        session = requests.Session()

        @examples(800)
        @given(request())
        def each(asked: tuple[str, Any, dict[str, str]]) -> None:
            path, body, headers = asked
            with wrong.collecting():
                answer = session.post(
                    address + path,
                    data=json.dumps(body).encode("utf-8", "surrogatepass"),
                    headers={"Content-Type": "application/json", **headers},
                    timeout=SECONDS,
                )
                statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
                assert answer.status_code < 500, (asked, answer.text[:500])
                if answer.status_code != 200:
                    told = answer.json()
                    assert answer.headers["Content-Type"] == "application/problem+json"
                    assert re.fullmatch(r"[^\n]{10,800}[.]", told["detail"]), told
                elif answer.headers["Content-Type"] == "image/png":
                    Image.open(io.BytesIO(answer.content)).load()

        each()
    wrong.end()
    assert statuses.get(200, 0) > 0.1 * sum(statuses.values()), statuses
