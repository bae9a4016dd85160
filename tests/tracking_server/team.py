"""What a team runs: MLflow's server over PostgreSQL and S3, of which a member knows nothing but the address."""

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import services
import sqlalchemy

PASSWORD, SECRET = "password-of-the-database", "secret-key-of-the-bucket"  # neither may reach a member


class Team:
    """An MLflow server that may be stopped and started again, and what lies behind it."""

    def __init__(self, folder: Path, database: str, bucket: Any) -> None:
        self.folder, self.database, self.bucket = folder, sqlalchemy.create_engine(database), bucket
        self.port = services.free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.server, self.pid = ExitStack(), 0

    def start(self) -> None:
        database = self.database.url.render_as_string(hide_password=False)
        # By a name that only the server can reach, as when S3 is in another network: clients must not be sent there.
        network = {"MLFLOW_S3_ENDPOINT_URL": "http://storage-of-the-team", "no_proxy": ""}
        network["http_proxy"] = self.bucket.meta.client.meta.endpoint_url
        keys = {"AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        self.pid = self.server.enter_context(
            services.mlflow_server(self.folder, self.port, database, f"s3://{self.bucket.name}", network | keys)
        )

    def stop(self) -> None:
        self.server.close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the database itself answers."""
        with self.database.connect() as connection:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(query))]

    def stored(self, folder: str, name: str) -> list[Any]:
        """Objects in the bucket somewhere below a folder, with a key that ends with `name`."""
        return [
            self.bucket.Object(one.key)
            for one in self.bucket.objects.all()
            if f"/{folder}/" in one.key and one.key.endswith(name)
        ]


def program(name: str) -> str | None:
    """A program of PostgreSQL; Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return shutil.which(name) or (str(found[-1]) if found else None)


@contextmanager
def postgres() -> Iterator[str]:
    """The URI of an empty database; it names its driver, for which one `postgresql://` means depends on SQLAlchemy."""
    with tempfile.TemporaryDirectory(prefix="postgres") as place:  # into pytest's own, no other user may look
        folder, port, who = Path(place), services.free_port(), _unprivileged()
        if who:
            shutil.chown(folder, who["user"])
        (folder / "password").write_text(PASSWORD)
        options = shlex.split("-U mlflow --pwfile password -A scram-sha-256 -E UTF8 --locale=C --no-sync")
        command = [str(program("initdb")), "-D", "data", *options]
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False, **who)
        assert made.returncode == 0, made.stdout + made.stderr

        uri = f"postgresql+psycopg://mlflow:{PASSWORD}@127.0.0.1:{port}/postgres"
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
        settings |= {"fsync": "off", "shared_buffers": "32MB"}
        command = [str(program("postgres")), "-D", "data", *(f"--{key}={value}" for key, value in settings.items())]
        with services.running(command, lambda: _answers(uri), folder / "log", end=signal.SIGINT, cwd=folder, **who):
            yield uri


def _unprivileged() -> dict[str, Any]:
    """For a subprocess: another user than root, as whom PostgreSQL refuses to run."""
    if os.getuid() != 0:
        return {}
    user = next(entry for name in ("postgres", "nobody") for entry in pwd.getpwall() if entry.pw_name == name)
    return {"user": user.pw_name, "group": user.pw_gid, "extra_groups": []}


def _answers(uri: str) -> bool:
    try:
        sqlalchemy.create_engine(uri).connect().close()
    except sqlalchemy.exc.OperationalError:
        return False
    return True
