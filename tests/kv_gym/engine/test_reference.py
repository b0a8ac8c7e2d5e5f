import os
from dataclasses import replace

import pytest
import torch

from kv_gym.config import make_config
from kv_gym.engine.reference import ANSWER_CALL, ReferenceStore, answer_length, answer_start, traced_tokens
from kv_gym.errors import ReferenceFileError, UndecidedError
from kv_gym.llm.cache import FullCache
from kv_gym.llm.loading import load_llm
from kv_gym.problems import Problem, problem_source

PROBLEMS = [problem_source("aime").problem("validation", 0, i) for i in range(3)]


@pytest.fixture
def config(random_model):
    return make_config("KVEvict-AIME-v0", model=str(random_model), max_new_tokens=40, budget=24, evict_every=4)


def test_a_reference_is_greedy_decoding_with_the_plain_model(config):
    llm = load_llm(config.model)
    import copy

    plain = copy.deepcopy(llm.model)
    plain.set_attn_implementation("eager")
    for reference in ReferenceStore(llm, config).get(PROBLEMS):
        logits = plain(reference.tokens[None]).logits[0]
        log_p = logits.log_softmax(-1)
        generated = torch.arange(reference.n_prompt, len(reference))
        assert torch.equal(reference.tokens[generated], logits[generated - 1].argmax(-1))
        every = torch.arange(1, len(reference))
        torch.testing.assert_close(reference.surprisal[1:], -log_p[every - 1, reference.tokens[1:]], atol=1e-4, rtol=0)
        entropy = -(log_p.exp() * log_p).sum(-1)[:-1]
        torch.testing.assert_close(reference.entropy[1:], entropy, atol=1e-4, rtol=0)
        assert len(reference) == reference.n_prompt + 40 and reference.stop == "length" and not reference.correct


def test_references_are_stored_and_read_back(config, tmp_path):
    llm = load_llm(config.model)
    made = ReferenceStore(llm, config, tmp_path).get(PROBLEMS)
    store = ReferenceStore(llm, config, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    read = store.get(PROBLEMS)
    assert [r.hash for r in read] == [r.hash for r in made]
    assert all(
        torch.equal(a.tokens, b.tokens) and torch.equal(a.surprisal, b.surprisal)
        for a, b in zip(made, read, strict=True)
    )
    assert {path: path.stat().st_mtime_ns for path in store.folder.iterdir()} == files, "nothing was written again"


@pytest.mark.parametrize("damage", ["cut", "changed", "another"])
def test_a_damaged_file_is_refused(config, tmp_path, damage):
    llm = load_llm(config.model)
    store = ReferenceStore(llm, config, tmp_path)
    store.get(PROBLEMS[:2])
    first, second = (store.path(store.key(problem, 0)) for problem in PROBLEMS[:2])
    content = bytearray(first.read_bytes())
    if damage == "cut":
        first.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        content[-5] ^= 1
        first.write_bytes(content)
    else:
        os.replace(second, first)
    with pytest.raises(ReferenceFileError, match=r"reference file .* is damaged.*Delete the file"):
        ReferenceStore(llm, config, tmp_path).get(PROBLEMS[:1])


def test_the_answer_starts_after_the_last_box():
    llm = load_llm("tiny")
    from kv_gym.engine.reference import Reference

    text = "ab\\boxed{1}c\\boxed{042}"
    tokens = torch.tensor([*llm.encode(text), *llm.stop_ids])
    zeros = torch.zeros(len(tokens))
    reference = Reference(PROBLEMS[0], tokens, 1, zeros, zeros, "eos", True, "")
    assert llm.decode(tokens[: answer_start(llm, reference)]) == "ab\\boxed{1}c\\boxed{"
    unboxed = torch.tensor([*llm.encode("abc"), *llm.stop_ids])
    reference = Reference(PROBLEMS[0], unboxed, 1, zeros, zeros, "eos", False, "")
    assert answer_start(llm, reference) == len(unboxed) - 1
    summary = replace(PROBLEMS[0], graded="coverage")
    reference = Reference(summary, tokens, 1, zeros, zeros, "eos", True, "")
    assert answer_start(llm, reference) == len(tokens) - 1


TRACE = "1 + 1 is 3, no: \\boxed{3} is wrong, it is 2. So \\boxed{2} it is."


def test_a_trace_is_read_and_its_last_box_is_left_to_the_llm(config, tmp_path):
    llm = load_llm(config.model)
    problem = Problem("mine/0", "all", "1 + 1?", "2", trace=TRACE)
    (reference,) = ReferenceStore(llm, config.model_copy(update={"max_new_tokens": 200}), tmp_path).get([problem])
    head = "1 + 1 is 3, no: \\boxed{3} is wrong, it is 2. So \\boxed{"
    known = [*llm.encode_prompt(problem.prompt), *llm.encode(head)]
    assert reference.tokens[: len(known)].tolist() == known and len(known) < len(reference) <= len(known) + 32
    assert answer_start(llm, reference) == len(known)
    log_p = llm.model(reference.tokens[None], **plain_options(llm, reference)).logits[0].log_softmax(-1)
    every = torch.arange(1, len(reference))
    torch.testing.assert_close(reference.surprisal[1:], -log_p[every - 1, reference.tokens[1:]], atol=1e-4, rtol=0)
    assert torch.equal(reference.tokens[len(known) :], log_p[len(known) - 1 : -1].argmax(-1))


def plain_options(llm, reference):
    cache = FullCache(llm.shape, 1, len(reference))
    positions = torch.arange(len(reference))[None]
    cache.begin(positions)
    return {"position_ids": positions, "past_key_values": cache, "kv_gym_cache": cache, "attention_mask": llm._no_mask}


def test_a_trace_without_a_box_gets_one_and_a_long_one_is_cut(config):
    llm = load_llm(config.model)
    call = llm.encode(ANSWER_CALL + "\\boxed{")
    assert traced_tokens(llm, "it is 2", 100) == llm.encode("it is 2") + call
    assert traced_tokens(llm, "it is 2" * 100, 50) == llm.encode("it is 2" * 100)[: 50 - len(call)] + call


def test_an_answer_ends_with_its_box(config):
    llm = load_llm(config.model)
    tokens = torch.tensor(llm.encode("12} and \\boxed{3}"))
    assert llm.decode(tokens[: answer_length(llm, tokens)]) == "12}"
    assert answer_length(llm, tokens[:2]) == 2


def test_reading_a_prompt_in_chunks_changes_nothing(config, tmp_path, monkeypatch):
    llm = load_llm(config.model)
    whole = ReferenceStore(llm, config, tmp_path / "whole").get(PROBLEMS)
    longest, at_once = max(reference.n_prompt for reference in whole), 3 * llm.n_vocabulary * 7
    monkeypatch.setattr("kv_gym.engine.reading.NUMBERS_AT_ONCE", at_once)  # 7 tokens of 3 rows
    read, lengths = llm.read, []
    monkeypatch.setattr(
        llm, "read", lambda tokens, *rest, **how: lengths.append(tokens.shape[1]) or read(tokens, *rest, **how)
    )
    parts = ReferenceStore(llm, config, tmp_path / "parts").get(PROBLEMS)
    # Logits and masks stay below the bound: memory grows with the length of a text and not with its square.
    assert 1 < max(lengths) <= at_once // (3 * max(llm.n_vocabulary, llm.shape.group * longest))
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        torch.testing.assert_close(one.surprisal, other.surprisal, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.entropy, other.entropy, atol=1e-5, rtol=0)


def test_a_share_is_read_back_exactly(config, tmp_path, monkeypatch):
    monkeypatch.setattr("kv_gym.engine.reference.grade", lambda text, answer, graded: 1 / 3)
    llm = load_llm(config.model)
    (made,) = ReferenceStore(llm, config, tmp_path).get(PROBLEMS[:1])
    (read,) = ReferenceStore(llm, config, tmp_path).get(PROBLEMS[:1])
    assert made.correct == read.correct == 1 / 3


def undecided(text, answer, graded):
    raise UndecidedError("it took too long")


def test_without_a_verdict_a_reference_is_not_stored(config, tmp_path, monkeypatch):
    llm = load_llm(config.model)
    monkeypatch.setattr("kv_gym.engine.reference.grade", undecided)
    store = ReferenceStore(llm, config, tmp_path)
    (made,) = store.get(PROBLEMS[:1])
    assert made.correct == 0 and made.undecided == (
        f"UndecidedError: the full cache's answer to {PROBLEMS[0].id}: it took too long"
    )
    assert store.get(PROBLEMS[:1])[0] is made and list(tmp_path.rglob("*.safetensors")) == []
    monkeypatch.setattr("kv_gym.engine.reference.grade", lambda text, answer, graded: 0.0)
    (wrong,) = ReferenceStore(llm, config, tmp_path).get(PROBLEMS[:1])
    assert wrong.undecided is None and torch.equal(wrong.tokens, made.tokens)
    assert wrong.hash != made.hash, "no verdict is not the verdict that it is wrong"


def test_a_verdict_by_other_rules_is_made_again(config, tmp_path, monkeypatch):
    llm, asked = load_llm(config.model), []

    def judged(text, answer, graded):
        asked.append(answer)
        return 1.0 if len(asked) == 1 else 0.0

    monkeypatch.setattr("kv_gym.engine.reference.grade", judged)
    monkeypatch.setattr("kv_gym.engine.reference.GRADING_VERSION", 1)
    (first,) = ReferenceStore(llm, config, tmp_path).get(PROBLEMS[:1])
    (same,) = ReferenceStore(llm, config, tmp_path).get(PROBLEMS[:1])
    assert len(asked) == 1 and same.hash == first.hash
    monkeypatch.setattr("kv_gym.engine.reference.GRADING_VERSION", 2)
    (again,) = ReferenceStore(llm, config, tmp_path).get(PROBLEMS[:1])
    assert (first.correct, again.correct, len(asked)) == (1.0, 0.0, 2)
    assert torch.equal(again.tokens, first.tokens) and torch.equal(again.surprisal, first.surprisal)
    (kept,) = ReferenceStore(llm, config, tmp_path).get(PROBLEMS[:1])
    assert len(asked) == 2 and kept.correct == 0.0 and kept.hash == again.hash
