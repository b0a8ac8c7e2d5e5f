"""The embedded models' tokenizer: one token a character, plus a few words. Chat-free: the prompt is the text itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["graph ", "ledger ", "lag ", "collect ", "sum ", "\\boxed{"]
CHARACTERS = list("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH=+-,:;?}\n")
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
DOMAINS = [
    *"()!", "records ", "updates ", "twins ", "straight ", "loop ", "loops ", "marked ", "topic ",
]  # fmt: skip
"""What problems other than AIME's need on top."""


def build_tokenizer(more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Build the tokenizer, with `more` tokens behind those of AIME problems; every text starts with <bos>."""
    tokens = [*SPECIAL, *CHARACTERS, *WORDS, *more]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words = "|".join(re.escape(token) for token in tokens[len(SPECIAL) :] if len(token) > 1)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{words}|[\\s\\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
