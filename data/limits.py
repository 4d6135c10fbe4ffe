"""The largest image that is taken: one limit for scan, training, prediction, the exported graph and its client."""

from __future__ import annotations

# A decoded image is up to 200 times its file; this bounds what one hostile header can make the program allocate.
LARGEST_PIXELS = 100_000_000
# More than an uncompressed image of that size takes; a film in the folder should not be read into memory.
LARGEST_BYTES = 512 << 20

TOO_MANY_PIXELS = f"larger than {LARGEST_PIXELS // 10**6} megapixels"
TOO_MANY_BYTES = f"larger than {LARGEST_BYTES >> 20} MiB"
