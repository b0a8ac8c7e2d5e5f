import pytest
import torch

from kv_gym.golden import block_attention, future_attention, golden_scores
from kv_gym.llm.loading import load_llm


@pytest.fixture(scope="module")
def llm(random_model):
    return load_llm(str(random_model))


def test_future_attention_by_hand():
    blocks = torch.tensor([[0.1, 0.4, 0.2], [0.3, 0.0, 0.0]])
    torch.testing.assert_close(future_attention(blocks), torch.tensor([[0.4, 0.4, 0.2], [0.3, 0.0, 0.0]]))


def test_golden_scores_pick_block_and_position():
    future = torch.arange(12.0).reshape(1, 1, 1, 4, 3)  # position p, block b: 3 p + b
    positions = torch.tensor([0, 2, 3, 7]).reshape(1, 1, 1, 4)
    assert golden_scores(future, positions, torch.tensor([1])).flatten().tolist() == [1.0, 7.0, 10.0, 0.0]
    assert golden_scores(future, positions, torch.tensor([3])).flatten().tolist() == [0.0] * 4


def test_block_attention_is_a_slow_recomputation(llm):
    """Blocks of 4 queries from position 6 on; rows of 15 and 9 tokens, so both end in a ragged block."""
    tokens = torch.randint(3, 60, (2, 15), generator=torch.Generator().manual_seed(0))
    lengths = [15, 9]
    found = block_attention(llm, tokens, torch.tensor(lengths), start=6, block=4)
    assert found.shape == (2, 2, 2, 15, 3)
    import copy

    plain = copy.deepcopy(llm.model)
    plain.set_attn_implementation("eager")
    for row, length in enumerate(lengths):
        attention = plain(tokens[row : row + 1, :length], output_attentions=True).attentions  # L x [1, H_q, T, T]
        for layer in range(2):
            for head in range(2):
                for block in range(3):
                    queries = range(6 + 4 * block, min(6 + 4 * block + 4, length))
                    expected = torch.zeros(15)
                    for query in queries:
                        for member in (2 * head, 2 * head + 1):
                            expected[:length] += attention[layer][0, member, query] / (2 * len(queries))
                    torch.testing.assert_close(found[row, layer, head, :, block], expected, atol=1e-5, rtol=0)
