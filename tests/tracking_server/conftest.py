"""The team's server, running; without what it takes, its tests are skipped."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import services
from team import SECRET, Team, postgres, program


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The URI of an empty PostgreSQL database."""
    if not (program("initdb") and program("postgres")):
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if not find_spec("psycopg"):
        pytest.skip("psycopg is not installed: pip install -e '.[server]'")
    with postgres() as uri:
        yield uri


@pytest.fixture(scope="session")
def bucket() -> Iterator[Any]:
    """An empty bucket of S3, as boto3 has it."""
    if not find_spec("moto"):
        pytest.skip("moto is not installed: pip install -e '.[dev]'")
    import boto3  # type: ignore[import-untyped]

    with services.fake_s3("lekhani") as address:
        access = {"aws_access_key_id": "team", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        yield boto3.resource("s3", endpoint_url=address, **access).Bucket("lekhani")


@pytest.fixture(scope="session")
def team(database: str, bucket: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """MLflow's server."""
    team = Team(tmp_path_factory.mktemp("server"), database, bucket)
    with team.server:
        team.start()
        yield team
