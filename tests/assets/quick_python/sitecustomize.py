"""Python reads this as it starts, in all processes that tests start, Ray's workers too: less garbage collection.

What verl and vLLM load is half a million objects. The collector goes through them again and again while they are
loaded, and several times as Python ends, which takes a quarter of the time of a process that does little else.

``WITHOUT_SKLEARN=1`` hides scikit-learn, which the search server needs: transformers loads it (with scipy and pandas)
into every process where it is installed, for a kind of generation that training does not use.
"""

import atexit
import gc
import os
import sys

gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
if os.environ.get("WITHOUT_SKLEARN") == "1":
    sys.modules["sklearn"] = None  # an import of it fails as if it were not installed
