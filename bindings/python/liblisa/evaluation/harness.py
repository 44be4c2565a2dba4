"""lm-evaluation-harness's model "liblisa": importing this module registers it.

Texts become tokens, windows and answers as in the harness's own model of Hugging Face (HFLM).
"""

from __future__ import annotations

import itertools
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from .._adapter import Adapter
from .._context import Context
from .._model import Model
from .._options import PathLike
from ..data import Formatter
from ..data._extras import need
from ._generation import generate_until
from ._scores import score_pairs, score_texts

_TemplateLM: Any = need("lm_eval.api.model", "eval").TemplateLM
_register: Any = need("lm_eval.api.registry", "eval").register_model
_tqdm: Any = need("tqdm", "eval").tqdm

Request = Tuple[Any, List[int], List[int]]  # its cache key, context and continuation

_BATCH = 4
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("temperature", "top_k", "top_p")


def _generation(given: Dict[str, Any], max_gen_toks: int) -> Tuple[List[str], Dict[str, Any]]:
    """Stop strings, and keywords of generate_until, of a task's generation_kwargs."""
    left = dict(given)
    until = left.pop("until", None) or []
    lengths = [left.pop(name) for name in _LENGTHS if name in left]
    sampling = {name: left.pop(name) for name in _SAMPLING if left.get(name) is not None}
    do_sample = left.pop("do_sample", None)
    if left:
        raise ValueError(f"generation does not take: {', '.join(left)}")
    if do_sample is False or not (do_sample or sampling.get("temperature")):
        sampling = {}
    elif "temperature" not in sampling:
        sampling["temperature"] = 1.0
    most = int(lengths[0]) if lengths else max_gen_toks
    return [until] if isinstance(until, str) else list(until), {"max_new_tokens": most, **sampling}


@_register("liblisa")
class LisaLM(_TemplateLM):  # type: ignore[misc]
    """A model that liblisa runs, for lm_eval.simple_evaluate(model=...) and --model liblisa."""

    def __init__(
        self,
        pretrained: Union[PathLike, Model],
        *,
        formatter: Optional[Formatter] = None,
        peft: Optional[PathLike] = None,
        batch_size: Union[int, str] = _BATCH,
        max_batch_size: Optional[int] = None,
        max_length: Optional[int] = None,
        max_gen_toks: int = 256,
        add_bos_token: Optional[bool] = None,
        prefix_token_id: Optional[int] = None,
        backend: Optional[str] = None,
        device: Optional[str] = None,
        threads: Optional[int] = None,
        memory_limit: Optional[int] = None,
        seed: int = 0,
    ) -> None:
        """Opens a model, or takes one that is open.

        pretrained: a Hugging Face directory, or a Model together with its formatter.
        peft: a PEFT directory of an adapter.
        batch_size: rows that are scored at once; "auto" is max_batch_size, or 4.
        max_length: tokens that are read before the last one scored; by default one less than the
        model has positions, since the one scored takes a position here.
        backend: as Context has it. Without one `device` decides: any but cpu is "auto", since the
        harness's command names a GPU even where there is none.
        seed: of the first answer that is drawn; those after it count on.
        """
        super().__init__()
        if isinstance(pretrained, Model):
            if formatter is None:
                raise ValueError("formatter: a model that is open needs its formatter")
            self.model, self._name = pretrained, type(pretrained).__name__
        else:
            if backend is None:
                backend = "cpu" if device in (None, "cpu") else "auto"
            context = Context(backend, memory_limit=memory_limit, n_threads=threads)
            self.model, self._name = Model.open(context, pretrained), str(pretrained)
            formatter = Formatter.open(pretrained) if formatter is None else formatter
        self.formatter = formatter
        if peft is not None:
            Adapter.open(self.model, peft).attach()
        automatic = str(batch_size).startswith("auto")
        self.batch_size = int((max_batch_size or _BATCH) if automatic else batch_size)
        self.max_length = self._checked(max_length)
        self.max_gen_toks = max_gen_toks
        self._add_bos = add_bos_token
        self._prefix = prefix_token_id
        self._seeds = itertools.count(seed)

    def _checked(self, max_length: Optional[int]) -> int:
        most = self.model.config.max_positions - 1
        if max_length is not None and not 1 <= max_length <= most:
            raise ValueError(f"max_length: expected 1 to {most}, got {max_length}")
        return max_length or most

    @property
    def eot_token_id(self) -> int:
        """The token that ends texts."""
        if self.formatter.eos is None:
            raise ValueError("the tokenizer has no EOS token")
        return self.formatter.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it: BOS, else EOS."""
        if self._prefix is not None:
            return self._prefix
        return self.eot_token_id if self.formatter.bos is None else self.formatter.bos

    @property
    def tokenizer_name(self) -> str:
        """Names cached requests."""
        return self._name.replace("/", "__")

    def chat_template(self, chat_template: Union[bool, str] = False) -> Optional[str]:
        """The template's source where one is asked for."""
        if chat_template is False or chat_template is None:
            return None
        if isinstance(chat_template, str):
            raise ValueError(f"only the default chat template is read, not {chat_template!r}")
        return self.formatter._needed_template().source

    def apply_chat_template(
        self, chat_history: Sequence[Dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text, with the opening of an answer or left open in its last message."""
        template = self.formatter._needed_template()
        text = template.render(chat_history, prompt=add_generation_prompt).text
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"]
        for written in (last, last.strip()):  # some templates trim what they write
            if written in text:
                return text[: text.rindex(written) + len(written)]
        raise ValueError("the chat template writes the last message otherwise: it cannot go on")

    def _special(self, text: str, first: Optional[int]) -> bool:
        """Whether the tokenizer puts its special tokens around a text: not twice."""
        if first is not None:
            written = self.formatter.tokenizer.decode([first], skip_special_tokens=False)
            if written and text.startswith(written):
                return False
        return self._add_bos is not False

    def tok_encode(
        self, string: str, add_special_tokens: Optional[bool] = None, **_options: Any
    ) -> List[int]:
        """Tokens of a text."""
        if add_special_tokens is None:
            add_special_tokens = self._special(string, self.prefix_token_id)
        encoding = self.formatter.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **_options: Any
    ) -> List[Tuple[float, bool]]:
        pairs = [(context, continuation) for _key, context, continuation in requests]
        with _tqdm(total=len(pairs), desc="log-likelihoods", disable=disable_tqdm) as bar:
            scores = score_pairs(
                self.model,
                pairs,
                window=self.max_length + 1,
                batch_size=self.batch_size,
                progress=bar.update,
            )
        answers = [(score.log_likelihood, score.greedy) for score in scores]
        for (key, _context, _continuation), answer in zip(requests, answers):
            self.cache_hook.add_partial("loglikelihood", key, answer)
        return answers

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> List[float]:
        """Log-likelihoods of whole texts, each token with as much before it as the window gives."""
        texts = [request.args[0] for request in requests]
        with _tqdm(desc="windows", disable=disable_tqdm) as bar:
            scores = score_texts(
                self.model,
                [self.tok_encode(text) for text in texts],
                window=self.max_length + 1,
                prefix=self.prefix_token_id,
                batch_size=self.batch_size,
                progress=bar.update,
            )
        for text, score in zip(texts, scores):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), score.log_likelihood)
        return [score.log_likelihood for score in scores]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> List[str]:
        """Answers, up to a stop string or a token that ends texts."""
        answers = []
        for request in _tqdm(requests, desc="answers", disable=disable_tqdm):
            answers.append(self._answer(*request.args))
            self.cache_hook.add_partial("generate_until", request.args, answers[-1])
        return answers

    def _answer(self, prompt: str, given: Dict[str, Any]) -> str:
        until, options = _generation(given, self.max_gen_toks)
        special = self._special(prompt, self.formatter.bos)
        tokens = self.tok_encode(prompt, add_special_tokens=special)
        if "temperature" in options:
            options["seed"] = next(self._seeds)
        return generate_until(
            self.model, self.formatter, tokens, until, window=self.max_length, **options
        )
