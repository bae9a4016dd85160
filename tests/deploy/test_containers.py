"""Dockerfile and compose.yaml: sound, pinned, without a secret; and the commands of the services run here, one
beside the other."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import requests
import services
import yaml
from linters import checked
from miniature import REMOTE, Project
from workspace import ROOT

COMPOSE, GPU, EXAMPLE = ROOT / "compose.yaml", ROOT / "deploy" / "gpu.yaml", ROOT / ".env.example"
VALUES = {"POSTGRES_PASSWORD": "p4ssw0rd", "AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": "s3cret"}
RAW: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]


def filled(text: str, values: Mapping[str, str]) -> str:
    """Put values, or the defaults, where compose would."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        return values.get(name) or (rest if kind == "-" else pytest.fail(f"{name} has no value: {rest}"))

    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", value, text)


def test_hadolint_finds_nothing() -> None:
    checked("hadolint", "Dockerfile")


def test_images_are_built_in_stages_and_run_as_nobody_in_particular() -> None:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    stages: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            # A stage goes on from another one or from a pinned image.
            assert source in stages or re.fullmatch(r"[\w.-]+:[\w.-]+@sha256:[0-9a-f]{64}", source), source
            stages[name] = {**stages.get(source, {"ran": "", "USER": "root"})}
        elif word == "RUN":
            stages[name]["ran"] += rest
        elif word in {"USER", "HEALTHCHECK"}:
            stages[name][word] = rest
        elif word == "COPY" and "--from" in rest:
            stages[name]["copied"] = rest
    for target in ("gpu", "cpu"):
        image = stages[target]
        assert image["USER"] == "1000"
        assert image["HEALTHCHECK"].endswith('CMD ["lekhani", "--version"]')
        assert image["copied"] == f"--from=build-{target} /opt/venv /opt/venv", "nothing else leaves the build"
        assert "rm -rf /var/lib/apt/lists/*" in image["ran"]
        assert not re.search(r"\b(build-essential|pip|uv)\b", image["ran"])
        assert ("gcc" in image["ran"]) == (target == "gpu"), "Triton compiles while it trains"
    assert list(stages)[-1] == "cpu", "what is built when no target is named"
    built = {target: stages[f"build-{target}"]["ran"] for target in ("gpu", "cpu")}
    assert "--torch-backend cpu" in built["cpu"]
    assert "--torch-backend" not in built["gpu"]
    for target, other in (("gpu", "cpu"), ("cpu", "gpu")):
        assert f"--extra {target} " in built[target]
        assert f"--extra {other}" not in built[target], "the two packages of ONNX Runtime overwrite each other"


def test_only_what_is_copied_gets_into_a_build() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    wanted = {path for paths in copied for path in paths.split()}
    rules = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == wanted
    assert "**/__pycache__" in rules


@pytest.mark.slow
def test_the_image_has_the_page(tmp_path: Path) -> None:
    """What needs no engine of its build: what .dockerignore lets in is installed as there, and serves the page."""
    if not shutil.which("uv"):
        pytest.skip("uv is not installed: `make setup` installs it")
    context, installed = tmp_path / "context", tmp_path / "venv"
    context.mkdir()
    for rule in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if rule.startswith("!"):
            source = ROOT / rule[1:]
            ignored = shutil.ignore_patterns("__pycache__")
            copy = shutil.copy if source.is_file() else partial(shutil.copytree, ignore=ignored)
            (context / rule[1:]).parent.mkdir(exist_ok=True)
            copy(source, context / rule[1:])
    steps = re.findall(r"^RUN uv (pip install --no-deps) \.$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    assert len(steps) == 2
    words = ["uv", *steps[0].split(), "--quiet", "--target", str(installed), "."]
    done = subprocess.run(words, cwd=context, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    script = """
import lekhani
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lekhani.serve.page import add_page
app = FastAPI()
add_page(app)
client = TestClient(app)
print(lekhani.__file__, *(client.get(path).status_code for path in ("/", "/page/studio.js", "/page/style.css")))
"""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    words = [sys.executable, "-c", script]
    said = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.split() == [str(installed / "lekhani" / "__init__.py"), "200", "200", "200"]


def test_compose_keeps_to_the_specification() -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE), str(GPU))


def test_services_start_again_and_wait_for_each_other() -> None:
    assert set(RAW) == {"postgres", "storage", "mlflow", "prefect", "deployments", "worker", "api"}
    for name, service in RAW.items():
        once = name == "deployments"
        assert service["restart"] == ("on-failure:3" if once else "unless-stopped"), name
        assert ("test" in service["healthcheck"]) != once, name
        image = service["image"]
        assert "build" in service or re.fullmatch(r"[\w/.-]+:\d+\.\d+[\w.-]*", image), f"{name}: {image} is not pinned"
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == (
                "service_completed_successfully" if other == "deployments" else "service_healthy"
            ), (name, other)
    # Who speaks to whom is said by the addresses; each must be waited for.
    for name, service in RAW.items():
        spoken_to = {other for other in RAW if re.search(rf"[/@]{other}:\d", str(service.get("environment", "")))} - {
            name
        }
        waited_for = set(service.get("depends_on", {}))
        waited_for |= {far for near in waited_for for far in RAW[near].get("depends_on", {})}
        assert spoken_to <= waited_for, name


def test_services_are_seen_from_this_machine_alone() -> None:
    published = [port for service in RAW.values() for port in service.get("ports", [])]
    assert len(published) == 4
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in published)
    assert not any("network_mode" in service or "privileged" in service for service in RAW.values())
    for service in RAW.values():
        if "build" in service:
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]


def test_no_secret_stands_in_a_file() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    for name, service in RAW.items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY_ID|ACCESS_KEY|SECRET", key):
                assert re.fullmatch(r"\$\{" + key + r":\?[^}]+\}", value), f"{name}: {key}"
            if "://lekhani:" in str(value):
                assert "://lekhani:${POSTGRES_PASSWORD:?" in value, f"{name}: {key}"
    asked = dict(re.findall(r"\$\{(\w+):([-?])", text))
    offered = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE.read_text(encoding="utf-8"), re.M))
    assert set(offered) == set(asked)
    assert [key for key, value in offered.items() if not value] == [key for key in offered if asked[key] == "?"]
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/.env", ".env"} & set(ignored), "git must never take .env: add /.env to .gitignore"


class Here:
    """The services of compose.yaml on this machine: their commands as they stand, the services' names replaced by
    loopback addresses."""

    def __init__(self, project: Project, database: int, storage: str) -> None:
        self.project = project
        ports = {port: services.free_port() for port in (5000, 4200, 8080, 8000)}
        self.keys = project.path.parent / "keys.txt"
        text = filled(COMPOSE.read_text(encoding="utf-8"), VALUES)
        text = text.replace("@postgres:5432", f"@127.0.0.1:{database}").replace("http://storage:8333", storage)
        text = (
            re.sub(r"//(mlflow|prefect):", "//127.0.0.1:", text)
            .replace("0.0.0.0", "127.0.0.1")
            .replace("/project", str(project.path))
        )
        text = text.replace("/run/secrets/api_keys", str(self.keys)).replace(
            "--reports=/reports", f"--reports={project.path.parent / 'reports'}"
        )
        text = re.sub(r"\b(5000|4200|8080|8000)\b", lambda found: str(ports[int(found[0])]), text)
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
        self.mlflow = self.services["worker"]["environment"]["MLFLOW_TRACKING_URI"]

    def environment(self, name: str) -> dict[str, str]:
        known = {key: value for key, value in self.project.environment.items() if not key.startswith("GIT_")}
        given: dict[str, str] = self.services[name]["environment"]
        return known | given | {"HOME": str(self.project.path.parent)}

    def health(self, name: str) -> str:
        """The URL that the service's health check asks."""
        return str(re.findall(r"http://[^'\"]+", str(self.services[name]["healthcheck"]["test"]))[0])

    def run(self, name: str, *words: str) -> str:
        """Run a service's command, or another one in its place, to its end."""
        command, environment = words or self.services[name]["command"], self.environment(name)
        done = subprocess.run(
            command, cwd=self.project.path, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str) -> Any:
        """Run a service until the block ends."""
        log, health = self.project.path.parent / f"{name}.log", self.health(name)
        return services.running(
            self.services[name]["command"],
            lambda: services.answers(health),
            log,
            cwd=self.project.path,
            env=self.environment(name),
        )


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """All services, started in the order of compose.yaml; PostgreSQL is this machine's own, and moto stands in for
    the storage."""
    from tracking_server.team import postgres, program

    if not program("initdb"):
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if not find_spec("psycopg"):
        pytest.skip("psycopg is not installed: pip install -e '.[server]'")
    project = Project(tmp_path_factory.mktemp("compose") / "project")
    project.fill()
    (project.path / ".dvc" / "config").write_text(REMOTE.format(url="s3://dvc/lekhani"))
    with ExitStack() as stack:
        admin = stack.enter_context(postgres()).replace("+psycopg", "")
        place = re.sub("//.*@", f"//lekhani:{VALUES['POSTGRES_PASSWORD']}@", admin)
        for uri, *words in (
            (admin, "--command", f"CREATE ROLE lekhani SUPERUSER LOGIN PASSWORD '{VALUES['POSTGRES_PASSWORD']}'"),
            (place, "--file", str(ROOT / "deploy" / "databases.sql")),
        ):
            subprocess.run(
                [str(program("psql")), uri, "--quiet", "--set", "ON_ERROR_STOP=1", *words], timeout=60, check=True
            )
        found = Here(project, int(re.findall(r":(\d+)/", admin)[0]), stack.enter_context(services.fake_s3("mlflow")))
        bucket(found, "dvc").create()
        for name in ("mlflow", "prefect", "deployments", "worker"):
            if name == "deployments":
                found.run(name)
            else:
                stack.enter_context(found.start(name))
        yield found


def bucket(here: Here, name: str) -> Any:
    import boto3  # type: ignore[import-untyped]

    given = here.environment("worker")
    access = {"aws_access_key_id": given["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": given["AWS_SECRET_ACCESS_KEY"]}
    return boto3.resource(
        "s3", endpoint_url=given["AWS_ENDPOINT_URL_S3"], region_name=given["AWS_DEFAULT_REGION"], **access
    ).Bucket(name)


@pytest.mark.slow
def test_the_worker_runs_what_is_deployed_and_pushes_what_came_of_it(here: Here) -> None:
    search, port = f"{here.mlflow}/api/2.0/mlflow/experiments/search?max_results=5", here.mlflow.rpartition(":")[2]
    for host, status in ((f"mlflow:{port}", 200), ("evil.example", 403)):
        assert requests.get(search, headers={"Host": host}, timeout=20).status_code == status, host
    words = ("retrain/on-demand", "--param", "register_best=false", "--watch")
    said = here.run("worker", "prefect", "deployment", "run", *words)
    assert "finished" in said.lower() or "completed" in said.lower(), said
    assert (here.project.path / "reports" / "leaderboard.md").is_file()
    here.run("worker", "dvc", "push", "-q")
    assert len(list(bucket(here, "dvc").objects.all())) == 1


@pytest.mark.slow
def test_the_api_serves_the_champion_to_whoever_has_a_key(
    here: Here, toy_generator: Callable[..., Path], tmp_path: Path
) -> None:
    from lekhani.serve.keys import new_key

    script = """
import sys
from pathlib import Path
from lekhani.registry import models
from lekhani.tracking import logged, runs
from lekhani.tracking.store import connect
uri = logged.log_model(runs.create_run("test-compose", "toy", "test", {}), Path(sys.argv[1]))
models.register("mnist", uri, {"variant": "toy"})
connect().set_registered_model_alias("lekhani-mnist", "champion", "1")
"""
    here.run("api", sys.executable, "-W", "ignore", "-c", script, str(toy_generator(tmp_path / "g.onnx")))
    key, line = new_key("test")
    here.keys.write_text(line)
    with here.start("api"):
        address = here.health("api").replace("/healthz", "")
        ask, let_in = {"model": "mnist", "labels": ["1"]}, {"Authorization": f"Bearer {key}"}
        assert requests.post(f"{address}/v1/generate", json=ask, timeout=20).status_code == 401
        told = requests.post(f"{address}/v1/generate", json=ask, headers=let_in, timeout=20).json()
        assert told["model"]["version"] == "1"
        assert [one["glyph"] for one in told["images"]] == ["1"]
