import pytest
import torch
import torch.nn.functional as F

from kv_gym.config import make_config
from kv_gym.engine.golden import Labels, block_attention, stored_attention
from kv_gym.engine.reference import Reference
from kv_gym.llm.loading import load_llm


@pytest.fixture(scope="module")
def llm(random_model):
    return load_llm(str(random_model))


def by_hand(llm):
    """Labels of one episode: in block b, position p gets 3 p + b of all heads."""
    config = make_config("KVEvict-AIME-v0", budget=4, evict_every=2, n_recent=1, max_new_tokens=40)
    labels = Labels(llm, config, 2)
    blocks = ((b, (3 * torch.arange(4.0) + b).expand(1, 2, 2, 4)) for b in range(3))
    labels.put(torch.tensor([1]), blocks)
    positions = torch.tensor([0, 2, 3, 7]).expand(2, 2, 2, 4)

    def coming(decision):
        found = labels.of(positions, torch.tensor([0, decision]))
        assert not found.future[0].any() and not found.total[0].any()  # the other row has no episode
        assert (found.future[1] == found.future[1, 0, 0]).all()
        return found.future[1, 0, 0].tolist(), found.total[1, 0, 0].tolist()

    return coming


def test_labels_are_the_largest_and_the_sum_of_what_comes(llm):
    coming = by_hand(llm)
    assert coming(0) == ([2, 8, 11, 0], [3, 21, 30, 0])  # position 7 is beyond the text
    assert coming(1) == ([2, 8, 11, 0], [3, 15, 21, 0])
    assert coming(2) == ([2, 8, 11, 0], [2, 8, 11, 0])
    assert coming(3) == coming(99) == ([0, 0, 0, 0], [0, 0, 0, 0])


def test_many_labels_are_kept_in_half_precision(llm, monkeypatch):
    monkeypatch.setattr("kv_gym.engine.golden.MOST_EXACT", 0)
    labels = Labels(llm, make_config("KVEvict-AIME-v0", budget=64, max_new_tokens=1024), 1)
    n_blocks = labels._largest.shape[1] - 1
    attention = torch.logspace(-7, 0, 50).expand(1, 2, 2, 50)
    labels.put(torch.tensor([0]), ((b, attention) for b in range(n_blocks)))
    found = labels.of(torch.arange(50).expand(1, 2, 2, 50), torch.tensor([0]))
    assert labels._largest.dtype == torch.float16
    torch.testing.assert_close(found.future, attention, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(found.total, attention * n_blocks, rtol=2e-2, atol=1e-8)
    assert (found.future.diff(dim=-1) > 0).all()  # what is far below the average keeps its order


def test_block_attention_is_a_slow_recomputation(llm):
    """Blocks of 4 queries from position 6 on; rows of 15 and 9 tokens, so both end in a ragged block."""
    tokens = torch.randint(3, 60, (2, 15), generator=torch.Generator().manual_seed(0))
    lengths = [15, 9]
    blocks = list(block_attention(llm, tokens, torch.tensor(lengths), start=6, block=4))
    assert [(b, means.shape) for b, means in blocks] == [(0, (2, 2, 2, 10)), (1, (2, 2, 2, 14)), (2, (2, 2, 2, 15))]
    found = torch.stack([F.pad(means, (0, 15 - means.shape[-1])) for _, means in blocks], -1)
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


@pytest.mark.parametrize("start", [6, 10])
def test_stored_attention_is_the_same_and_is_computed_once(llm, tmp_path, monkeypatch, start):
    tokens = torch.randint(3, 60, (2, 15), generator=torch.Generator().manual_seed(0))
    none = torch.zeros(15)
    texts = [
        Reference(None, row[:length], 2, none, none, "eos", 1.0, str(length))  # type: ignore[arg-type]
        for row, length in zip(tokens, (15, 9), strict=True)
    ]
    exact = list(block_attention(llm, tokens, torch.tensor([15, 9]), start, block=4))
    list(stored_attention(llm, texts[1:], 6, 4, tmp_path))  # one of them is there already
    for again in (False, True):
        if again:
            monkeypatch.setattr("kv_gym.engine.golden.block_attention", None)
        found = list(stored_attention(llm, texts, start, 4, tmp_path))
        assert [b for b, _ in found] == [b for b, _ in exact]
        for (_, means), (_, expected) in zip(found, exact, strict=True):
            torch.testing.assert_close(means, expected, rtol=1e-3, atol=1e-8)
    files = list(tmp_path.iterdir())
    assert len(files) == 2  # for both starts, which are multiples of the block apart
    monkeypatch.undo()
    files[0].write_bytes(files[0].read_bytes()[:-20])  # copied by half: it is made again
    _, mended = next(iter(stored_attention(llm, texts, start, 4, tmp_path)))
    torch.testing.assert_close(mended, found[0][1], rtol=0, atol=0)
