"""Eight letters and the classifiers trained on them, made once for all tests of this folder."""

import pytest
import torch
from letters import Judged, Letters, draw_letters

from lekhani import params
from lekhani.evaluate.judge import JudgeNet, SecondNet, train_judge


@pytest.fixture(scope="session")
def letters() -> Letters:
    return draw_letters()


@pytest.fixture(scope="session")
def judges(letters: Letters) -> tuple[Judged, Judged]:
    """The judge and the second one, each trained for seconds."""
    choice = params.Judge(width=8, images_seen=8000, batch_size=48, lr=5e-3, nonsense=0.2, held_out=0.1)
    first, second = (
        train_judge(choice, letters.train, letters.test, 8, seed, torch.device("cpu"), lambda *_: None, network)
        for seed, network in ((3, JudgeNet), (4, SecondNet))
    )
    return first, second
