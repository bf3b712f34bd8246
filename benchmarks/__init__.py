"""What measures speed."""

import confp_jax  # noqa: F401  (before numpy: it says how long the threads of OpenBLAS spin)
