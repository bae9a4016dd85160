"""docs/serve.md: its commands do what it says, and its table of limits is the code's."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from PIL import Image
from workspace import ROOT

from lekhani.serve.limits import Limits
from lekhani.serve.telemetry import Metrics

PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_the_curl_examples_run(server: str, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed: apt-get install curl")
    examples = [block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) if "curl" in block]
    assert len(examples) == 6
    outputs = []
    for example in examples:
        script = example.replace("http://127.0.0.1:8000", server).replace("curl -s", "curl -s --fail-with-body")
        script = script.replace('"image": "%s"', '"image": "%s", "force": true')  # the toy's glyphs are grey squares
        if (
            "--json"
            not in subprocess.run(
                ["curl", "--help", "all"], capture_output=True, text=True, timeout=20, check=True
            ).stdout
        ):
            script = script.replace("--json", "-H 'Content-Type: application/json' -d")
        done = subprocess.run(
            ["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, example + done.stdout + done.stderr
        outputs.append(done.stdout)
    assert json.loads(outputs[0])[0]["dataset"] == "mnist"
    assert Image.open(tmp_path / "glyphs.png").size == (19, 19)
    assert Image.open(tmp_path / "line.png").height == 64
    assert [one["glyph"] for one in json.loads(outputs[4])["images"]] == ["1", "2"]
    assert json.loads(outputs[-1])["glyph"] in "012"
    assert (tmp_path / "glyphs.zip").read_bytes().startswith(b"PK")


def test_the_limits_are_the_codes() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,.]+) \|", PAGE, re.M))
    assert {name: float(value.replace(",", "")) for name, value in rows.items()} == Limits().model_dump()


def test_the_metrics_are_the_codes() -> None:
    known = {family.name for family in Metrics().registry.collect()}
    named = set(re.findall(r"lekhani_[a-z_]+", PAGE))
    assert {name.removesuffix("_total") for name in named} == known


def test_the_alarms_are_rules_of_prometheus() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    for rule in yaml.safe_load(block)["groups"][0]["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "annotations"}
        assert "lekhani_" in rule["expr"]
