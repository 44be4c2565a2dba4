"""GGUF files as Hugging Face directories. Needs `pip install 'liblisa[gguf]'` (gguf, numpy,
tokenizers). What a file holds and this does not understand is refused by name."""

from ._convert import Converted, convert
from ._source import ConversionError

__all__ = ["ConversionError", "Converted", "convert"]
