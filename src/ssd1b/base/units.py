"""Pixels, latents, the nine picture sizes, and numbers as people read them.

The only place that knows the 8 between pixels and latents. Sizes are (width, height) in pixels. This module
does not know models.
"""

from __future__ import annotations

VAE_SCALE = 8
"""Pixels per latent along one side; SDXL's VAE halves three times."""

# Source of the nine sizes: model card of segmind/SSD-1B, "nine resolutions".
ASPECTS: dict[str, tuple[int, int]] = {
    "1:1":   (1024, 1024),
    "9:7":   (1152,  896),
    "7:9":   ( 896, 1152),
    "19:13": (1216,  832),
    "13:19": ( 832, 1216),
    "7:4":   (1344,  768),
    "4:7":   ( 768, 1344),
    "12:5":  (1536,  640),
    "5:12":  ( 640, 1536),
}  # fmt: skip
MINI_ASPECTS: dict[str, tuple[int, int]] = {name: (w // 8, h // 8) for name, (w, h) in ASPECTS.items()}
"""The same nine at one eighth, for models whose native size is 128 px."""


def latent_side(px: int) -> int:
    """Return how many latents a side of `px` pixels has.

    Raises:
        ValueError: `px` is not a positive multiple of 8.
    """
    if px <= 0 or px % VAE_SCALE:
        raise ValueError(f"{px} px is not a positive multiple of {VAE_SCALE}")
    return px // VAE_SCALE


def aspects_of(sample_size: int) -> dict[str, tuple[int, int]]:
    """Return the nine sizes in pixels for a UNet of native latent side `sample_size` (SDXL 128, mini 16)."""
    return {name: (w * sample_size // 128, h * sample_size // 128) for name, (w, h) in ASPECTS.items()}


def human_bytes(n_bytes: float) -> str:
    """Return e.g. '999 B', '5.13 GB' (powers of 1000, as disks and downloads are sold)."""
    return _scaled(n_bytes, ("B", "kB", "MB", "GB", "TB"))


def human_count(count: float) -> str:
    """Return e.g. '999', '14.2 M', '2.57 B' for parameters and the like."""
    return _scaled(count, ("", "k", "M", "B", "T"))


def human_flops(flops: float) -> str:
    """Return e.g. '924 MFLOP', '4.21 TFLOP'."""
    return _scaled(flops, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"))


def human_seconds(seconds: float) -> str:
    """Return e.g. '0.42 s', '12.3 s', '4:07', '2:04:07'."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    size = float(value)
    for unit in units[:-1]:
        if abs(size) < 999.5:
            return f"{_three_digits(size)} {unit}".strip()
        size /= 1000
    return f"{_three_digits(size)} {units[-1]}"


def _three_digits(size: float) -> str:
    if size == int(size):
        return str(int(size))
    digits = 2 if abs(size) < 10 else 1 if abs(size) < 100 else 0
    return f"{size:.{digits}f}"
