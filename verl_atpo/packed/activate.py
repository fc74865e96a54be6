"""Register the packed engine and the placement of rows when verl imports `actor_rollout_ref.model.external_lib`.

verl does so in the trainer and in each of its workers.
"""

import os

from verl_atpo.packed import VENDOR
from verl_atpo.packed import engine as engine
from verl_atpo.packed.trainer import keep_trees_together

VENDOR_ENV = "VERL_ENGINE_VENDOR"

if os.environ.setdefault(VENDOR_ENV, VENDOR) != VENDOR:
    raise RuntimeError(
        f"{VENDOR_ENV}={os.environ[VENDOR_ENV]} asks verl for other engines than +train=packed does, which needs "
        f"{VENDOR}; unset it, or leave out +train=packed."
    )
keep_trees_together()
