"""A GGUF file's rotary positions as config.json says them."""

from __future__ import annotations

from typing import Any, Dict, Optional

from ._packages import np

from ._source import ConversionError, Source

LOW, HIGH = 1.0, 4.0  # Llama 3.1's; the table knows only ratios
TOLERANCE = 1e-4  # of a table computed in float32
ORIGINALS = [1 << power for power in range(5, 22)]


def _llama3_table(theta: float, head_dim: int, factor: float, original: float) -> np.ndarray:
    """What Llama 3.1's scaling divides each frequency by."""
    wavelengths = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelengths - LOW) / (HIGH - LOW), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / factor + smooth)


def _llama3(source: Source, head_dim: int) -> Optional[Dict[str, Any]]:
    """The parameters that give the table rope_freqs.weight, or a refusal."""
    if source.shape("rope_freqs.weight") != (head_dim // 2,):
        raise ConversionError(f"tensor 'rope_freqs.weight': expected shape [{head_dim // 2}]")
    table = next(source.floats("rope_freqs.weight", slice(0, head_dim // 2))).astype(np.float64)
    if np.all(table == 1.0):
        return None
    factor = float(str(np.float32(table.max())))
    theta = source.number("rope.freq_base", 10000.0)
    for original in ORIGINALS:
        expected = _llama3_table(theta, head_dim, factor, original)
        if np.all(np.abs(table - expected) <= TOLERANCE * expected):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": LOW,
                "high_freq_factor": HIGH,
                "original_max_position_embeddings": original,
            }
    raise ConversionError("tensor 'rope_freqs.weight' is not a table of Llama 3.1's scaling")


def rope_scaling(source: Source, head_dim: int) -> Optional[Dict[str, Any]]:
    kind = source.text("rope.scaling.type", "linear")
    factor = source.number("rope.scaling.factor", source.number("rope.scale_linear", 1.0))
    if kind not in ("none", "linear") or (kind == "none" and factor != 1.0):
        raise ConversionError(
            f"rope.scaling.type is {kind!r} with factor {factor}, expected linear"
        )
    for silent in ("rope.scaling.original_context_length", "rope.scaling.finetuned"):
        source.value(silent)
    linear = None if factor == 1.0 else {"type": "linear", "factor": factor}
    if "rope_freqs.weight" not in source.tensors:
        return linear
    if linear is not None:
        raise ConversionError("rope_freqs.weight beside rope.scaling.factor: expected one of them")
    return _llama3(source, head_dim)
