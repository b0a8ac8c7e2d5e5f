"""Every family of transformers' causal LMs, built small with random weights, loaded as users load it, and judged.

    python tests/kv_gym/llm/family_table.py                        # judge all, print what is not proven
    python tests/kv_gym/llm/family_table.py --write docs/models.md  # and write the table

A family is proven if `load_llm` takes it and it computes what transformers alone does, on a longer text than the check
reads; with windows in its layers, and with a window left over in its config. It is wrong if it loads and does not.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from kv_gym.errors import KVGymError
from kv_gym.llm.cache import FullCache
from kv_gym.llm.check import missing_parts, positions_of
from kv_gym.llm.loading import forget_llm, load_llm
from kv_gym.llm.support import check_supported, foreign_code
from kv_gym.llm.tiny.tokenizer import build_tokenizer

WINDOW, LENGTH = 48, 288
"""Tokens that windowed layers see, and of the text that is read; there are 256 positions in configs."""
MOST_PARAMETERS = 20_000_000
LAYERS, WIDTH, HEADS, INNER, EXPERTS = 2, 32, 4, 48, 4
SMALL: dict[str, Any] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "emb_dim", "dim_model"), WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "dff", "dim_ff"), INNER),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "intermediate_size_mlp"), 16),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), EXPERTS),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 256),
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), WINDOW),
    **{"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 63, "num_experts_per_tok": 2, "n_group": 1},
    **{"topk_group": 1, "first_k_dense_replace": 1, "is_decoder": True, "tie_word_embeddings": False},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "encoder_layers": 1, "encoder_attention_heads": HEADS},
    **{"encoder_ffn_dim": INNER, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8},
    **{"v_head_dim": 8, "image_size": 28, "patch_size": 14},
}
"""Sizes by every name that configs have for them."""
FULL_LAYERS = ["full_attention"] * LAYERS
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": INNER},
    },
    "dots1": {"layer_types": FULL_LAYERS, "n_shared_experts": 1, "n_routed_experts": EXPERTS, "num_experts_per_tok": 2},
    "dots3_note_text": {"num_key_value_heads": HEADS},
    "gemma3n_text": {
        "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 63, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
    },
    "gemma4_text": {"vocab_size_per_layer_input": 63, "hidden_size_per_layer_input": 8},
    "gpt_neo": {"attention_types": [[["global"], LAYERS]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 3},
    "zamba2": {"num_hidden_layers": 54},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""What a family needs besides, to be built small."""
VERDICTS = ("proven", "refused", "not built", "wrong", "crashed")


@dataclass(frozen=True)
class Verdict:
    """What came of a family: one of `VERDICTS`, and its limit, its error, or why it was not built."""

    verdict: str
    detail: str = ""


FORCED = {"num_key_value_heads", "head_dim", "vocab_size", "sliding_window"}
FORCED |= {"pad_token_id", "bos_token_id", "eos_token_id"}
"""Names that are set also where a config leaves them open."""


def small_values(default: Any) -> dict[str, Any]:
    """What makes a config small: names that it knows, and the same of the configs inside it."""
    known = default.to_dict()
    inside = {name: getattr(default, name, None) for name in type(default).sub_configs}
    mine = {name: v for name, v in SMALL.items() if name in known and (known[name] is not None or name in FORCED)}
    theirs = {
        name: {"model_type": value.model_type, **small_values(value)}
        for name, value in inside.items()
        if isinstance(value, PretrainedConfig)
    }
    return mine | theirs | SPECIAL.get(default.model_type, {})


def variants(family: str) -> Iterator[PretrainedConfig]:
    """A family built small, and where its layers have kinds, once more with full attention in all of them."""
    kind = CONFIG_MAPPING[family]
    values = small_values(kind())
    config = kind(**values)
    yield config
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        yield kind(**values, **{"layer_types": ["full_attention"] * LAYERS})


def judge(family: str, folder: Path) -> Verdict:
    """Judge a family as its config is by default, unless a variant is worse; models are saved in `folder`."""
    if family not in CONFIG_MAPPING:
        return Verdict("not built", "it has no config of its own")
    first = None
    try:
        for number, config in enumerate(variants(family)):
            found = judge_config(config, folder / f"{family}-{number}")
            if found.verdict in ("wrong", "crashed"):
                return found
            first = first or found
            if first.verdict != "proven":
                break
    except Exception as error:  # of transformers' own config
        first = first or Verdict("not built", said(error, family))
    assert first is not None
    return first


class UnbuiltError(Exception):
    """A model cannot be built small."""


def judge_config(config: PretrainedConfig, folder: Path) -> Verdict:
    """Build, save, load and read one model."""
    family = config.model_type
    try:
        with foreign_code(family, "its config was read"):
            check_supported(config.get_text_config())
        build(config, folder)
        return read_model(folder)
    except UnbuiltError as error:
        return Verdict("not built", str(error))
    except KVGymError as error:
        return Verdict("refused", said(error, family, folder))
    except Exception as error:
        return Verdict("crashed", said(error, family, folder))
    finally:
        forget_llm()


def read_model(folder: Path) -> Verdict:
    """Load a model as users do, and compare it with transformers alone."""
    llm = load_llm(str(folder))
    length = LENGTH if llm.limit is None else min(LENGTH, llm.limit.tokens)
    tokens = torch.randint(3, 63, (2, length), generator=torch.Generator().manual_seed(0))
    cache, parts = FullCache(llm.shape, 2, length), ((0, length // 2), (length // 2, length))
    found = torch.cat([llm.read(tokens[:, a:b], positions_of(2, a, b, tokens.device), cache) for a, b in parts], 1)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        wanted = plain(tokens).logits
    gap = float((found - wanted).abs().max() / wanted.abs().max())
    if not gap < 2e-5:
        return Verdict("wrong", f"{gap:.1e} off in a text of {length} tokens")
    details = [] if llm.limit is None else [f"up to {end_of(llm.limit.why)}"]
    details += [f"without {missing.split(':')[0]}" for missing in missing_parts(llm)]
    return Verdict("proven", "; ".join(details))


def end_of(why: str) -> str:
    """What a limit is called in the table, without the numbers of small models."""
    for name in ("sliding_window", "attention_chunk_size", "max_position_embeddings", "floor_scale"):
        if name in why:
            return f"`{name}`"
    return "the length where RoPE switches"


def build(config: PretrainedConfig, folder: Path) -> None:
    """Save a random model with a tokenizer.

    Raises:
        UnbuiltError: It is too large, or transformers cannot build or read it.
    """
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if size > MOST_PARAMETERS:
            raise UnbuiltError(f"{size / 1e6:,.0f} million parameters when its sizes are small")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            model(torch.tensor([[3, 4, 5]]), use_cache=False)
        model.save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
    except UnbuiltError:
        raise
    except Exception as error:  # of any class of transformers
        raise UnbuiltError(said(error, config.model_type)) from error


def said(error: Exception, family: str, folder: Path | None = None) -> str:
    """An error in one line for a table, without paths, figures, and what is said of all."""
    text = re.sub(r" \(off by [^)]*\)", "", " ".join(str(error).split()).replace("|", "/"))
    if folder is not None:
        text = text.replace(str(folder), family)
    if not isinstance(error, KVGymError):
        return shortened(f"{type(error).__name__}: {text}", 160)
    return shortened(text.replace("; docs/models.md lists the families that work", ""), 240)


def shortened(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


def families() -> list[str]:
    """All of them, as the installed transformers has them."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def table(verdicts: dict[str, Verdict]) -> str:
    """The table as Markdown."""
    counts = Counter(verdict.verdict for verdict in verdicts.values())
    rows = [
        f"| {family} | {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]} | {verdict.verdict} | {verdict.detail} |"
        for family, verdict in sorted(verdicts.items())
    ]
    return "\n".join(
        [
            f"transformers {transformers.__version__}, {len(rows)} families: "
            + ", ".join(f"{counts[name]} {name}" for name in VERDICTS)
            + ".",
            "",
            "| family | class | verdict | |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def written(page: str) -> tuple[str, dict[str, str]]:
    """What a page's table says: its version of transformers, and the verdict of each family."""
    head, *rows = page.split(BEGIN)[1].split(END)[0].strip().splitlines()
    cells = [[cell.strip() for cell in row.split("|")] for row in rows[3:]]
    return head.split()[1].rstrip(","), {cell[1]: cell[3] for cell in cells}


BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"


def main() -> None:
    """Judge families; write the table if asked to."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("families", nargs="*", help="all, if none is named")
    parser.add_argument("--write", type=Path, help="page whose table is written anew")
    arguments = parser.parse_args()
    verdicts = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KV_GYM_CACHE"] = folder
        for family in arguments.families or families():
            verdicts[family] = judge(family, Path(folder))
            print(f"{family}: {verdicts[family].verdict} {verdicts[family].detail}", flush=True)
    if arguments.write and not arguments.families:
        page = arguments.write.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        arguments.write.write_text(f"{before}{BEGIN}\n{table(verdicts)}\n{END}{after}")


if __name__ == "__main__":
    main()
