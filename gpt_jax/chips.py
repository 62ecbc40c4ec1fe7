"""The chips that we know, and the slices of a pod that can be rented: one table, with its sources.

Sources, unless a line says otherwise: cloud.google.com/tpu/docs, the pages v4, v5e, v5p and v6e
(peak, HBM bandwidth, ICI bandwidth per chip, DCN bandwidth per chip, slice shapes); NVIDIA's data
sheets. What is not published is marked as an assumption of ours.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from gpt_jax.config import require

GIB = 2**30
PUE = 1.09
"""Power that a data centre takes over what its machines take: Google's fleet in 2024
(Environmental Report 2025)."""


@dataclass(frozen=True)
class Chip:
    """A TPU, of one generation."""

    generation: str
    device_kinds: tuple[str, ...]
    """How JAX names it."""
    peak_flops: float
    """Dense bfloat16 FLOP/s. float32 is multiplied in bfloat16 passes by default, so that the
    same peak holds."""
    hbm_bytes: int
    """What a program may take: what XLA's compiler allows, a little less than what is built in."""
    hbm_bandwidth: float
    """Bytes/s."""
    ici_link: float
    """Bytes/s of one link to a neighbour, in one direction."""
    dcn: float
    """Bytes/s of one chip's share of the network between slices."""
    host_link: float
    """Bytes/s of one chip to and from its host's memory, in one direction."""
    watts: float
    """Mean power while training, without the host."""
    clock: float
    """Hz: turns the compiler's cycles into seconds; 0: not known."""
    cores: int
    """TensorCores: v4 and v5p slices are named by these, the others by chips."""
    topologies: tuple[str, ...]
    """Shapes of its slices, in chips, smallest first."""

    @property
    def dimensions(self) -> int:
        """Of its torus; a chip has two links along each."""
        return self.topologies[0].count("x") + 1


_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
    *("8x8x8", "8x8x16", "8x16x16"),
)
_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")

# Usable HBM: the limit that libtpu's compiler states when a program exceeds it.
# Clocks: v4, Jouppi et al. 2023 (Table 4); v5e and v5p follow from their peaks and the 128 x 128
# matrix units (4 a chip and 8 a chip); v6e's is not published.
# Watts: v4's mean as measured (Jouppi et al. 2023, Table 4). The others' are not published: assumed
# to do as many FLOP per joule as v4; v6e 1.67 times that, as Google says of it against v5e.
# DCN of v4: not published per chip; assumed that of v5e. Links to the host: assumed 16 lanes of
# PCIe 3, as v4 is said to have.
CHIPS: dict[str, Chip] = {
    chip.generation: chip
    for chip in (
        Chip(
            generation="v4",
            device_kinds=("TPU v4",),
            peak_flops=275e12,
            hbm_bytes=int(30.75 * GIB),
            hbm_bandwidth=1228e9,
            ici_link=50e9,
            dcn=3.125e9,
            host_link=16e9,
            watts=170,
            clock=1.05e9,
            cores=2,
            topologies=(*_CUBES, "16x16x16"),
        ),
        Chip(
            generation="v5e",
            device_kinds=("TPU v5 lite", "TPU v5e"),
            peak_flops=197e12,
            hbm_bytes=int(15.75 * GIB),
            hbm_bandwidth=819e9,
            ici_link=50e9,
            dcn=3.125e9,
            host_link=16e9,
            watts=122,
            clock=1.5e9,
            cores=1,
            topologies=_SQUARES,
        ),
        Chip(
            generation="v5p",
            device_kinds=("TPU v5", "TPU v5p"),
            peak_flops=459e12,
            hbm_bytes=int(95.73 * GIB),
            hbm_bandwidth=2765e9,
            ici_link=100e9,
            dcn=6.25e9,
            host_link=16e9,
            watts=284,
            clock=1.75e9,
            cores=2,
            topologies=(*_CUBES, "16x16x16", "16x16x24"),
        ),
        Chip(
            generation="v6e",
            device_kinds=("TPU v6 lite", "TPU v6e"),
            peak_flops=918e12,
            hbm_bytes=int(31.24 * GIB),
            hbm_bandwidth=1640e9,
            ici_link=100e9,
            dcn=12.5e9,
            host_link=16e9,
            watts=340,
            clock=0,
            cores=1,
            topologies=_SQUARES,
        ),
    )
}

# Dense matrix FLOP/s without sparsity, by the beginning of JAX's name: (bfloat16, TF32).
_GPU_FLOPS = {
    "NVIDIA A100": (312e12, 156e12),
    "NVIDIA H100": (989e12, 494e12),
    "NVIDIA H200": (989e12, 494e12),
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of a chip as JAX names it, or None where no table knows it (CPUs, say)."""
    tpus = {kind: (c.peak_flops, c.peak_flops) for c in CHIPS.values() for kind in c.device_kinds}
    peaks = tpus | _GPU_FLOPS
    names = [name for name in peaks if device_kind.startswith(name)]
    if not names:
        return None
    bfloat16, float32 = peaks[max(names, key=len)]
    return bfloat16 if dtype == "bfloat16" else float32


@dataclass(frozen=True)
class Slice:
    """Chips of one generation in one torus, as Cloud TPU rents them."""

    generation: str
    topology: str
    """Chips along each dimension of the torus: 4x8x8."""

    @property
    def chip(self) -> Chip:
        return CHIPS[self.generation]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.topology.split("x"))

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        """Machines, each with one process of ours: of 4 chips, or one of up to 8 of v5e and v6e."""
        single = 8 if self.chip.cores == 1 else 4
        return 1 if self.chips <= single else self.chips // 4

    @property
    def name(self) -> str:
        """As people write it: v5e-16, v5p-512 (which counts TensorCores: 256 chips)."""
        return f"{self.generation}-{self.chips * self.chip.cores}"

    @property
    def accelerator_type(self) -> str:
        """As gcloud takes it."""
        return self.name.replace("v5e-", "v5litepod-")


def slices(generation: str) -> list[Slice]:
    """The slices of a generation, smallest first."""
    return [Slice(generation, topology) for topology in CHIPS[generation].topologies]


def find_slice(name: str) -> Slice:
    """The slice of a name: v5p-512 as Cloud TPU counts, or by its shape, v5p:4x8x8.

    v4 and v5p are named by TensorCores, two a chip: v5p-512 has 256 chips. v5e-16 is Cloud TPU's
    v5litepod-16. Raises InputError, with the nearest names, for one that is none.
    """
    asked = name.strip().lower().replace("v5litepod-", "v5e-")
    every = {part.name: part for generation in CHIPS for part in slices(generation)}
    every |= {f"{part.generation}:{part.topology}": part for part in every.values()}
    close = difflib.get_close_matches(asked, every, n=3, cutoff=0.4) or list(every)[:3]
    require(
        asked in every,
        f"a slice is named by its generation and size, and there is no {name!r}: the nearest are "
        f"{', '.join(close)}. v4 and v5p count TensorCores, two a chip; generations are "
        f"{', '.join(CHIPS)}.",
    )
    return every[asked]
