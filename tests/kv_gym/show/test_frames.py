"""What frames say of an episode, against the cache itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frame_by_hand import hand_made

from kv_gym.config import make_config
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.envs.core import ProblemSet
from kv_gym.llm.loading import load_llm
from kv_gym.show.frames import FrameMaker, TokenTexts, axis_length, mark, printable, spread

ENV = "KVEvict-AIME-v0"


@pytest.fixture(scope="module")
def batch(random_model: Path) -> EpisodeBatch:
    config = make_config(
        ENV, model=str(random_model), budget=20, evict_every=4, n_problems=2, max_new_tokens=40, max_prompt_tokens=64
    )
    return EpisodeBatch(load_llm(str(random_model)), config, 2)


@pytest.fixture
def maker(batch: EpisodeBatch) -> FrameMaker:
    problems = ProblemSet(batch.llm, batch.config)
    batch.reset([0, 1], [problems.playable(0, 0), problems.playable(1, 1)], [0, 1])
    made = FrameMaker(ENV, batch)
    made.start([0, 1])
    return made


def step(maker: FrameMaker) -> torch.Tensor:
    """Play a step with random scores; return the positions before it, [N, L, H_kv, S]."""
    before = maker.batch.slots().positions.clone()
    maker.begin_step()
    maker.end_step(maker.batch.step(torch.rand(before.shape, generator=torch.Generator().manual_seed(0))))
    return before


def test_first_frame_holds_all_that_was_read(maker: FrameMaker) -> None:
    first, second = maker.frames([0, 1])
    assert first.held.shape == (2, 2, 24) and first.held.all() and not first.gone.any()
    assert [first.step, first.reward, first.total, first.score, first.n_ended] == [0, 0.0, 0.0, None, 0]
    assert first.kv_bytes == first.kv_bytes_full == 2 * 2 * 2 * 24 * 8 * 4  # K and V, layers, heads, slots, D, bytes
    assert len(first.tokens) == 25
    reference = maker.batch.texts.references[0]
    assert reference is not None and reference.problem.prompt.startswith("".join(first.tokens))  # it is longer
    assert first.problem != second.problem


def test_step_shows_what_went_and_what_is_held(maker: FrameMaker) -> None:
    step(maker)
    before = step(maker)  # what went in the first step is no longer marked
    after = maker.batch.slots()
    for row, frame in enumerate(maker.frames([0, 1])):
        assert frame.held.shape == (2, 2, 32)
        for layer in range(2):
            for head in range(2):
                old, new = (set(p[row, layer, head].tolist()) for p in (before, after.positions))
                assert set(np.flatnonzero(frame.held[layer, head]).tolist()) == new
                assert set(np.flatnonzero(frame.gone[layer, head]).tolist()) == old - new
                assert len(old - new) == 4
                attention = after.attention(4)[row, layer, head].mean((0, 1))  # over group and queries
                found = frame.attention[layer, head, after.positions[row, layer, head].numpy()]
                np.testing.assert_allclose(found, attention.numpy(), atol=1e-6)


def test_attention_of_a_head_sums_to_one(maker: FrameMaker) -> None:
    step(maker)
    np.testing.assert_allclose(maker.frames([0])[0].attention.sum(-1), 1, atol=1e-5)


def test_rewards_add_up_and_ends_are_counted(maker: FrameMaker) -> None:
    total, ended = np.zeros(2), 0
    while maker.batch.active.any():
        result = maker.batch.step(torch.rand(maker.batch.slots().shape))
        maker.end_step(result)
        ended += int((result.terminated | result.truncated).sum())
        total += result.reward.numpy()
    frames = maker.frames([0, 1])
    np.testing.assert_allclose([frame.total for frame in frames], total)
    assert [frame.score for frame in frames] == maker.batch.records.correct.tolist()
    assert [frames[0].n_ended, ended] == [2, 2]
    for row, frame in enumerate(frames):
        assert frame.held.shape[-1] <= int(maker.batch.texts.end[row])  # what is read behind the end is not shown
        written = "".join(frame.tokens[frame.n_prompt :])
        assert written == maker.batch.texts.text(row)


def test_start_forgets_the_row_and_no_other(maker: FrameMaker) -> None:
    step(maker)
    kept = maker.frames([1])[0]
    maker.start([0])
    first, second = maker.frames([0, 1])
    assert not first.gone.any() and [first.total, first.reward, first.terms["attention_spike"]] == [0, 0, 0]
    np.testing.assert_array_equal(second.gone, kept.gone)
    assert [second.total, second.reward] == [kept.total, kept.reward]


def test_making_frames_changes_nothing(maker: FrameMaker) -> None:
    cache = maker.batch.cache
    tensors = [*cache._batch_tensors(), maker.batch.texts.tokens, maker.batch.texts.length]
    before = [tensor.clone() for tensor in tensors]
    maker.frames([0, 1])
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


def test_values_stand_at_their_positions() -> None:
    values, positions = np.array([[5, 6, 7]]), np.array([[0, 2, 5]])
    assert spread(values, positions, 4).tolist() == [[5, 0, 6, 0]]
    assert mark(positions, 7).tolist() == [[True, False, True, False, False, True, False]]


@pytest.mark.parametrize(("length", "room"), [(1, 18), (18, 18), (19, 27), (28, 40)])
def test_axis_grows_by_half(length: int, room: int) -> None:
    assert axis_length(length, 12) == room


class Bytes:
    """An LLM whose tokens are bytes."""

    def decode(self, ids: Any) -> str:
        return bytes(ids).decode("utf-8", "replace")


class Words:
    """An LLM whose tokenizer drops the space at the start of a text."""

    def decode(self, ids: Any) -> str:
        return " ".join("abcdef"[i] for i in ids)


def test_a_character_of_several_tokens_belongs_to_the_last() -> None:
    texts = TokenTexts(Bytes())  # type: ignore[arg-type]
    assert texts(list("aé√b".encode())) == ("a", "", "é", "", "", "√", "b")
    assert texts([0x61, 0xFF, 0x62]) == ("a", "", "\ufffdb")  # no character
    assert texts([0x61, 0xE2]) == ("a", "\ufffd")  # not finished yet


def test_spaces_between_tokens_stay() -> None:
    assert TokenTexts(Words())([0, 1, 2]) == ("a", " b", " c")  # type: ignore[arg-type]


def test_texts_of_tokens_are_the_text(batch: EpisodeBatch) -> None:
    ids = batch.llm.encode("graph a=b+c;\n?a\\boxed{123}")
    assert "".join(TokenTexts(batch.llm)(ids)) == batch.llm.decode(ids)


def test_control_characters_are_not_printed() -> None:
    assert printable("a\x1b[2Jb\r\x07\x9b\u202e\u2028\tc\nd") == "a\ufffd[2Jb\ufffd\ufffd\ufffd\ufffd  c\nd"


def test_share_and_last_copies_by_hand() -> None:
    assert hand_made().share.tolist() == [0.5, 0, 0.5, 1, 1]
    assert hand_made().lost.tolist() == [False, True, False, False, False]
