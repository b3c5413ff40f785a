"""Real SAM weights and one real photo, loaded once for the stages that need them."""

import pathlib

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from mllmseg import weights
from mllmseg.config import SamConfig
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.models.sam import Sam, build_sam
from mllmseg.structures import ImageInputs

# A busy machine is no failure, and a failure must come back on the next run.
settings.register_profile("models", deadline=None, derandomize=True)
settings.load_profile("models")

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def mobile_sam() -> Sam:
    return build_sam(SamConfig(), weights.fetch("mobile_sam"))


@pytest.fixture(scope="session")
def astronaut() -> ImageInputs:
    return preprocess(load_image(EXAMPLES / "astronaut.jpg"))


@pytest.fixture(scope="session")
def astronaut_embeddings(mobile_sam: Sam, astronaut: ImageInputs) -> Tensor:
    with torch.no_grad():
        return mobile_sam.encode_image(astronaut.sam_pixels[None])
