import torch

from kv_gym.engine.decoding import Decoding, surprisal_and_entropy, uniform_draws


def test_greedy_takes_the_likeliest():
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    assert Decoding().choose(logits, torch.tensor([0.99])).tolist() == [1]


def test_draws_walk_down_the_sorted_probabilities():
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(5, 3)  # sorted: token 1 to 0.5, token 2 to 0.8, token 0 to 1
    draws = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81])
    assert Decoding(temperature=1.0).choose(logits, draws).tolist() == [1, 1, 2, 2, 0]


def test_top_k_and_top_p_cut_the_tail():
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(3, 3)
    draws = torch.tensor([0.1, 0.7, 0.999999999], dtype=torch.float64)
    assert Decoding(1.0, top_k=1).choose(logits, draws).tolist() == [1, 1, 1]
    assert Decoding(1.0, top_p=0.6).choose(logits, draws).tolist() == [1, 2, 2]  # the token that crosses 0.6 stays in


def test_frequencies_are_the_probabilities():
    """With 20,000 draws a deviation of 0.02 is more than five standard errors."""
    logits = torch.tensor([1.0, 0.0, -1.0])
    draws = uniform_draws(0, 20_000)
    chosen = Decoding(temperature=2.0).choose(logits.expand(20_000, 3), draws)
    share = torch.bincount(chosen, minlength=3) / 20_000
    torch.testing.assert_close(share, (logits / 2).softmax(-1), atol=0.02, rtol=0)


def test_surprisal_and_entropy_by_hand():
    logits = torch.tensor([[0.25, 0.75]]).log()
    surprisal, entropy = surprisal_and_entropy(logits, torch.tensor([1]))
    torch.testing.assert_close(surprisal, torch.tensor([0.28768207]))
    torch.testing.assert_close(entropy, torch.tensor([0.25 * 1.3862944 + 0.75 * 0.28768207]))


def test_draws_depend_on_the_seed_only():
    assert torch.equal(uniform_draws(3, 10), uniform_draws(3, 20)[:10])
    assert not torch.equal(uniform_draws(3, 10), uniform_draws(4, 10))
