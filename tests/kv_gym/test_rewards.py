import torch

from kv_gym.rewards import attention_spike, loss_spike, total_reward


def test_loss_spike_by_hand():
    increase = torch.tensor([[2.0, 1.0, 3.0, 4.0], [1.5, -5.0, 0.0, 1.0], [9.0, 9.0, 9.0, 9.0]])
    watched = torch.tensor([[True, True, False, True], [True, True, True, True], [False] * 4])
    # Row 0: (4 + 0 + 16) / 3 watched tokens; row 1: nothing above 1.5; row 2: nothing watched.
    torch.testing.assert_close(loss_spike(increase, watched, 1.5), torch.tensor([20 / 3, 0.0, 0.0]))


def test_loss_spike_counts_no_increase_beyond_its_cap():
    increase = torch.tensor([[2.0, 1.0, 3.0, 4.0]])
    watched = torch.tensor([[True, True, False, True]])
    torch.testing.assert_close(loss_spike(increase, watched, 1.5, cap=3.0), torch.tensor([(4 + 0 + 9) / 3]))


def test_attention_spike_by_hand():
    missed = torch.tensor([[[0.05, 0.25], [0.45, 0.0]]])  # [N=1, L=2, H_kv=2]
    torch.testing.assert_close(attention_spike(missed, 0.05), torch.tensor([(0.0 + 0.2 + 0.4 + 0.0) / 4]))


def test_total_reward_by_hand():
    terms = {
        "correct": torch.tensor([1.0, 0.0]),
        "loss_spike": torch.tensor([2.0, 5.0]),
        "attention_spike": torch.tensor([0.5, 0.1]),
    }
    weights = {"correct": 1.0, "loss_spike": 0.02, "attention_spike": 0.1}
    torch.testing.assert_close(total_reward(terms, weights), torch.tensor([1 - 0.04 - 0.05, -0.1 - 0.01]))
