"""The tokenizer: one token for each word of the miniature's vocabulary; other words split into parts, down to bytes."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel

from miniature.wording import vocabulary
from workers.pipelines.engine import CLIPTokenizer

#: Tokens that CLIP and T5 take. T5's are read at every step and in every layer: FLUX.1's 512 would take all the time.
CLIP_TOKENS, T5_TOKENS = 77, 32
_END_OF_WORD = "</w>"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")

Pair = tuple[str, str]


def tokenizer(length: int) -> CLIPTokenizer:
    """Build a CLIP tokenizer for `length` tokens, with one token for each word of the vocabulary."""
    chars = sorted(ByteLevel.alphabet())
    merges = _merges()
    tokens = [*chars, *(char + _END_OF_WORD for char in chars), *("".join(pair) for pair in merges), *_SPECIAL]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=list(merges), model_max_length=length
    )


@lru_cache(maxsize=1)
def _merges() -> tuple[Pair, ...]:
    """Compute byte-pair merges (Sennrich and others, arXiv 1508.07909) until every word is one token.

    The `tokenizers` library learns the same, but numbers its tokens differently each time.
    """
    words = [[*word[:-1], word[-1] + _END_OF_WORD] for word in vocabulary()]
    merges: list[Pair] = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        commonest = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(commonest)
        words = [_joined(word, commonest) for word in words]
    return tuple(merges)


def _joined(word: list[str], pair: Pair) -> list[str]:
    joined: list[str] = []
    for part in word:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined
