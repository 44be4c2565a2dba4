"""What a model makes of texts: likelihoods of continuations and of whole texts, and generation up
to stop strings.

`liblisa.evaluation.harness` is a model of lm-evaluation-harness (`pip install 'liblisa[eval]'`);
everything else needs the package alone.
"""

from ._generation import generate_until
from ._scores import Score, pair, score_examples, score_pairs, score_texts, total, windows

__all__ = [
    "Score",
    "generate_until",
    "pair",
    "score_examples",
    "score_pairs",
    "score_texts",
    "total",
    "windows",
]
