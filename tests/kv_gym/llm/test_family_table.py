"""The table in docs/models.md says what happens when a family is loaded: here for some, and for all if slow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import family_table
import pytest
import transformers
from family_table import judge, table, written
from transformers import CONFIG_MAPPING

from kv_gym.llm import limits

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
WHAT = {
    "llama": ("proven", ""),
    "qwen3": ("proven", ""),
    "apertus": ("proven", ""),  # has parameters without an axis
    "nemotron": ("proven", ""),  # hands no kwargs down to its attention
    "stablelm": ("proven", ""),
    "gpt_bigcode": ("proven", "`max_position_embeddings`"),  # one KV head, whatever its config says
    "gemma3_text": ("proven", "`sliding_window`"),
    "mistral": ("proven", "`sliding_window`"),
    "llama4_text": ("proven", "`attention_chunk_size`"),
    "falcon": ("refused", "computes attention in its own way"),
    "gptj": ("refused", "computes attention in its own way"),
    "gpt_neo": ("refused", "computes attention in its own way"),
    "codegen": ("refused", "computes attention in its own way"),
    "xglm": ("refused", "computes attention in its own way"),
    "bloom": ("refused", "takes no position_ids"),
    "rwkv": ("refused", "takes no position_ids"),
    "xlstm": ("refused", "takes no position_ids"),
    "mamba": ("refused", ""),
    "deepseek_v3": ("refused", "latent attention"),
    "diffllama": ("refused", "does not hold that evicting is masking"),
    "jetmoe": ("refused", "4 KV heads where its config says 2"),
    "doge": ("refused", "the attention modules of 2 of its 2 layers cannot be found"),
    "roberta": ("refused", "does not hold that no eviction is the plain model"),
    "gpt_oss": ("refused", "'s_aux'"),
    "gemma2": ("refused", "'softcap'"),
    "musicgen": ("refused", ""),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KV_GYM_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", [family for family in WHAT if family in CONFIG_MAPPING])
def test_a_family_is_proven_or_refused_with_a_sentence(family: str, tmp_path: Path) -> None:
    found, (verdict, detail) = judge(family, tmp_path), WHAT[family]
    version, verdicts = written(PAGE.read_text())
    assert verdicts[family] == verdict
    if version == transformers.__version__:
        assert found.verdict == verdict and detail in found.detail, found
    assert found.verdict in ("proven", "refused", "not built"), found


def test_a_family_that_computes_something_else_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_windows", lambda config: [])
    found = judge("gemma3_text", tmp_path)
    assert found.verdict == "wrong" and "off in a text of 288 tokens" in found.detail


def test_whatever_a_tokenizer_raises_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *args, **kwargs: 1 // 0)
    found = judge("llama", tmp_path)
    assert found.verdict == "refused" and "its tokenizer cannot be read (ZeroDivisionError: " in found.detail


def test_an_error_that_nobody_expects_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_table, "load_llm", lambda folder: {}["weights"])
    assert judge("llama", tmp_path) == family_table.Verdict("crashed", "KeyError: 'weights'")


def test_the_page_covers_every_family_and_none_is_wrong() -> None:
    version, verdicts = written(PAGE.read_text())
    if version == transformers.__version__:
        assert set(verdicts) == set(family_table.families())
    assert set(verdicts.values()) <= {"proven", "refused", "not built"}
    count = Counter(verdicts.values())
    said = f"{len(verdicts)} families of causal LMs {count['proven']} are proven and {count['refused']} refused"
    assert said in " ".join((PAGE.parents[1] / "README.md").read_text().split())


@pytest.mark.slow
def test_the_page_is_what_is_found(tmp_path: Path) -> None:
    verdicts = {family: judge(family, tmp_path) for family in family_table.families()}
    bad = {family: found for family, found in verdicts.items() if found.verdict in ("wrong", "crashed")}
    assert not bad
    page = PAGE.read_text()
    if written(page)[0] == transformers.__version__:
        assert table(verdicts) in page, "run `make families`"
