"""One candidate, compiled in a process of its own: `python -m gpt_jax.plan.worker`.

The request is a line of JSON on standard input, the answer one on standard output. A compiler for
another machine can end its process, and takes gigabytes: neither is the planner's to suffer.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Compile the request's candidate; what does not fit is an answer, not an error."""
    request = json.loads(sys.stdin.readline())
    # What libraries print must not stand between the parent and the answer.
    answer_to, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(compiled(request)), file=answer_to, flush=True)


def compiled(request: dict[str, Any]) -> dict[str, Any]:
    """Bytes per device, collectives and cycles of the training step of `request["config"]`.

    `request` also has topology (None: the devices that are here), num_slices, and dump (a folder
    for what the compiler leaves as it goes, or None).
    """
    import jax

    from gpt_jax.config import Config, from_dict
    from gpt_jax.train.step import Program

    program = Program(from_dict(Config, request["config"]), _devices(request))
    lowered = program.lower_train_step()
    options = {"xla_dump_to": request["dump"]} if request["dump"] else None
    try:
        done = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"too_large": str(error)}
    from gpt_jax.plan.hlo import program_facts

    memory, text = done.memory_analysis(), done.as_text()
    assert memory is not None
    assert text is not None
    facts = program_facts(text, dict(program.mesh.shape), program.num_micro)
    code = memory.generated_code_size_in_bytes
    arguments, peak = memory.argument_size_in_bytes, memory.peak_memory_in_bytes
    if request["topology"] is None:
        # XLA for CPUs leaves its temporaries out of the peak.
        peak = max(peak, arguments + memory.temp_size_in_bytes)
    return facts | {
        "hbm_bytes": peak + code,
        "argument_bytes": arguments,
        "temporary_bytes": peak - arguments,
    }


def _devices(request: dict[str, Any]) -> Any:
    import jax

    if request["topology"] is None:
        return jax.devices()
    from jax.experimental import topologies

    how: dict[str, Any] = {}
    if request["topology"].startswith("v4:"):
        how["chip_config_name"] = "megacore"  # one device a chip, not one a core
    if request["num_slices"] > 1:
        how["num_slices"] = request["num_slices"]
    found = topologies.get_topology_desc(platform="tpu", topology_name=request["topology"], **how)
    return found.devices


if __name__ == "__main__":
    main()
