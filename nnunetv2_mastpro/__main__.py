"""`python -m nnunetv2_mastpro` is `mastpro`."""

import sys

from nnunetv2_mastpro.cli import main

sys.exit(main())
