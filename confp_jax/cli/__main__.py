"""`python -m confp_jax.cli`: the same as `confp`."""

import sys

from confp_jax.cli import main

sys.exit(main())
