"""What networks and their states are made of: frozen dataclasses that are pytrees.

The one door to Penzai for packages above `models` and `interventions`, so that
it stays replaceable.
"""

from penzai.core.struct import Struct as Struct
from penzai.core.struct import pytree_dataclass as pytree_dataclass
