import pytest
import torch

from kv_gym.engine.golden import block_attention, coming_attention
from kv_gym.llm.loading import load_llm


@pytest.fixture(scope="module")
def llm(random_model):
    return load_llm(str(random_model))


def test_coming_attention_by_hand():
    blocks = torch.arange(12.0).reshape(1, 1, 1, 4, 3)  # position p, block b: 3 p + b
    positions = torch.tensor([0, 2, 3, 7]).reshape(1, 1, 1, 4)

    def coming(decision):
        return coming_attention(blocks, positions, torch.tensor([decision]))[0, 0, 0].tolist()

    assert coming(0) == [[0, 1, 2], [6, 7, 8], [9, 10, 11], [0, 0, 0]]  # position 7 is beyond the text
    assert coming(1) == [[0, 1, 2], [0, 7, 8], [0, 10, 11], [0, 0, 0]]
    assert coming(3) == [[0, 0, 0]] * 4


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
