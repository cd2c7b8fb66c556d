"""Three regions of real processes, each with a Valkey of its own, and links between them that delay, cut and heal."""

from __future__ import annotations
