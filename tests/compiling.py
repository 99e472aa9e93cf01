"""How a program is compiled as in a user's process, whatever this suite does elsewhere."""

import jax

# See `conftest`: for promises of equal bits, which hang on the program that the compiler makes,
# and for programs that run so long that it pays.
PLAIN = {"xla_backend_optimization_level": 3} | (
    {"xla_cpu_use_fusion_emitters": True} if jax.__version__.startswith("0.10.") else {}
)
