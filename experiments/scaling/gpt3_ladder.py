"""The eight sizes of the GPT-3 paper as a ladder: 175B is predicted from the seven below it.

    gpt-jax scaling run experiments/scaling/gpt3_ladder.py --dry-run --target v5p-512 --mfu 0.5

Its runs are those of the files experiments/gpt3_*.py: table 2.1, each on 300 B tokens with the
paper's batch and learning rate. None has been trained here. What an estimate says of a step at the
full batch on 256 chips, nothing compiled, and of 300 B tokens at that pace:

    gpt-jax plan experiments/gpt3_*.py --target v5p-512 --no-compile

    size    step       MFU    best mesh               a layer keeps   HBM        300 B tokens
    125M    0.00694 s  56 %   fsdp 256                dots            0.7 GiB    1.1 hours
    350M    0.0182 s   60 %   fsdp 256                dots            1.5 GiB    2.9 hours
    760M    0.0347 s   65 %   fsdp 256                dots            2.3 GiB    5.5 hours
    1.3B    0.106 s    72 %   fsdp 256                dots            5.2 GiB    8.4 hours
    2.7B    0.204 s    74 %   fsdp 256                dots            8.1 GiB    16 hours
    6.7B    0.925 s    81 %   fsdp 256                dots            24.1 GiB   37 hours
    13B     1.74 s     82 %   fsdp 256                dots            36.9 GiB   69 hours
    175B    34.8 s     82 %   fsdp 128 x tensor 2     dots            88.2 GiB   38 days

Such estimates are optimistic; the dry run takes half of the peak: 1.2 hours to 63 days.
"""

from gpt_jax.presets import GPT3_SIZES, gpt3
from gpt_jax.scaling.study import Law, Study


def get_config() -> Study:
    """The loss as a power of compute, as in figure 3.1, and of the size."""
    runs = tuple(gpt3(size) for size in GPT3_SIZES)
    return Study(name="gpt3_ladder", runs=runs, laws=(Law("power_c"), Law("power_n")))
