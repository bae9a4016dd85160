"""What all tests share: a tiny configuration, a toy generator, a full disk, one MLflow store, and how they are run."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lekhani import params
from lekhani.data.spec import MNIST, GlyphClass

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the workers of pytest-xdist share the cores

HEAVY = ["pipeline", "tracking_server", "deploy", "docs", "model", "web", "data"]  # folders by the time a file takes

Metadata = dict[str, str | None]  # None leaves the key out
ToyGenerator = Callable[..., Path]
FullDisk = Callable[[], AbstractContextManager[None]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that no worker starts one when the others are done."""
    rank = {folder: place for place, folder in enumerate(HEAVY)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(Path(__file__).parent).parts[0], len(rank)))


@pytest.fixture(scope="session")
def tiny() -> params.Variants:
    """All variants as small as they get."""
    return params.Variants(
        bare_bones=params.BareBones(batch_size=8, noise_dim=6, hidden=8, lr=1e-2),
        mlp_gan=params.MlpGan(batch_size=8, noise_dim=6, width=8),
        cgan=params.Cgan(batch_size=8, noise_dim=6, width=8),
        dcgan=params.Dcgan(batch_size=8, noise_dim=6, channels=4),
        wgan_gp=params.WganGp(batch_size=8, noise_dim=6, channels=4, n_dis=2),
        sngan=params.Sngan(batch_size=8, noise_dim=6, channels=4),
        r3gan=params.R3gan(batch_size=8, noise_dim=6, channels=4),
        draw=params.Draw(batch_size=8, hidden=8, steps=3, latent_dim=2, read_size=3, write_size=4),
        flow_matching=params.FlowMatching(batch_size=8, channels=(8, 16), steps=2, guidance=2.0, ema_decay=0.9),
        turbo=params.Turbo(batch_size=8, pairs_per_class=4, ema_decay=0.9),
        drifting=params.Drifting(
            batch_size=8,
            generated_per_class=2,
            real_per_class=1,
            noise_dim=6,
            channels=(8, 16),
            encoder_width=4,
            encoder_share=0.0,
        ),
    )


@pytest.fixture(scope="session")
def toy_generator() -> ToyGenerator:
    """Writes an ONNX file with the signature and metadata of an exported generator, without torch.

    A conditional one paints label k of K at brightness (k + 0.5) / K with a little noise; an unconditional one paints a
    brightness that its first noise value decides.
    """

    def build(
        path: Path,
        *,
        conditional: bool = True,
        classes: tuple[GlyphClass, ...] = MNIST[:3],
        size: int = 4,
        metadata: Metadata | None = None,
    ) -> Path:
        from onnx import TensorProto
        from onnx.helper import make_node
        from onnx_by_hand import described, save_model

        constants = {
            "cube": [-1, 1, size, size],
            "cell": [-1, 1, 1, 1],
            "first": [0],
            "scale": 1 / len(classes) if conditional else 0.0,
            "share": 0.0 if conditional else 0.25,
            "little": 0.02,
            "offset": 0.5 / len(classes) if conditional else 0.5,
            "zero": 0.0,
            "one": 1.0,
        }
        nodes = [
            make_node("Reshape", ["noise", "cube"], ["picture"]),
            make_node("Mul", ["picture", "little"], ["texture"]),
            make_node("Gather", ["noise", "first"], ["lead"], axis=1),
            make_node("Reshape", ["lead", "cell"], ["lead_cell"]),
            make_node("Mul", ["lead_cell", "share"], ["luck"]),
            make_node("Cast", ["labels"], ["number"], to=TensorProto.FLOAT),
            make_node("Reshape", ["number", "cell"], ["number_cell"]),
            make_node("Mul", ["number_cell", "scale"], ["step"]),
            make_node("Sum", ["texture", "luck", "step", "offset"], ["raw"]),
            make_node("Clip", ["raw", "zero", "one"], ["images"]),
        ]
        more = {"variant": "flow_matching" if conditional else "dcgan", "noise_dim": str(size**2)}
        about = described("mnist", classes, size, **more, conditional=str(conditional).lower()) | (metadata or {})
        told = {key: value for key, value in about.items() if value is not None}
        inputs, outputs = {"noise": [size**2], "labels": []}, {"images": [1, size, size]}
        return save_model(path, nodes, inputs, outputs, constants, told)

    return build


@pytest.fixture(scope="session")
def full_disk() -> FullDisk:
    """A context in which the operating system refuses to let any file grow."""

    @contextmanager
    def refuse() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return refuse


@pytest.fixture(autouse=True)
def mlflow_environment() -> Iterator[None]:
    """Take back what mlflow writes into the environment, such as its store, which commands of later tests would use."""
    before = {key for key in os.environ if key.startswith("MLFLOW_")}
    yield
    for key in [key for key in os.environ if key.startswith("MLFLOW_")]:
        if key not in before:
            del os.environ[key]


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty MLflow database, mlflow.db; making one takes seconds, so there is one for all tests."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from lekhani.tracking import store  # noqa: F401 - sets mlflow's environment

    folder = tmp_path_factory.mktemp("mlflow")
    SqlAlchemyStore(f"sqlite:///{folder / 'mlflow.db'}", (folder / "root").as_uri())
    return folder


@pytest.fixture
def store(store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """MLflow at the shared store, inside its folder."""
    import mlflow

    monkeypatch.chdir(store_folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store_folder / 'mlflow.db'}")
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)  # of a test with another store
    yield store_folder
    while mlflow.active_run():
        mlflow.end_run()
