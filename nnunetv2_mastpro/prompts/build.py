"""Regenerates the shipped embeddings after a change of the knowledge base: python -m nnunetv2_mastpro.prompts.build"""

from __future__ import annotations

import sys

from nnunetv2_mastpro.prompts.encoder import encode, load_encoder
from nnunetv2_mastpro.prompts.knowledge_base import sentences
from nnunetv2_mastpro.prompts.store import SHIPPED_FILE, write_shipped


def main() -> int:
    """Encodes every sentence of the knowledge base by the default encoder and writes the file."""
    listed = sentences()
    write_shipped(listed, encode(listed, load_encoder()))
    sys.stdout.write(f"{SHIPPED_FILE}: {len(listed)} sentences\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
