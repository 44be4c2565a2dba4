"""Training data: JSON lines of the usual shapes, as tokens with labels on what is to be learned.

`Formatter.open(DIRECTORY)` takes tokenizer and chat template of a Hugging Face directory; it needs
`pip install 'liblisa[data]'` (tokenizers, jinja2). Everything else needs the package alone.
"""

from ._batches import Padded, Row, in_order, pack, pad, shuffled, windows
from ._findings import Finding, Survey, survey
from ._formatter import Example, Formatter
from ._records import Completion, Conversation, Message, Record, Text, parse_record, read_records

__all__ = [
    "Completion",
    "Conversation",
    "Example",
    "Finding",
    "Formatter",
    "Message",
    "Padded",
    "Record",
    "Row",
    "Survey",
    "Text",
    "in_order",
    "pack",
    "pad",
    "parse_record",
    "read_records",
    "shuffled",
    "survey",
    "windows",
]
