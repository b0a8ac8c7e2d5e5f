"""Every supported family, and a text to read."""

import pytest
import torch
from families import EVERY, FAMILIES, SLOTS, WINDOWS, N, plain_model

from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.tiny.tokenizer import build_tokenizer


@pytest.fixture(params=FAMILIES, scope="module")
def models(request):
    """A plain model and the same weights as a FrozenLLM."""
    config = FAMILIES[request.param]
    plain = plain_model(config)
    frozen = plain_model(config)
    return plain, FrozenLLM(frozen, build_tokenizer(), request.param)


@pytest.fixture
def tokens():
    return torch.randint(3, 63, (N, SLOTS + WINDOWS * EVERY), generator=torch.Generator().manual_seed(1))
