"""Python reads this as it starts, in all processes that tests start, Ray's workers too: less garbage collection.

What verl and vLLM load is half a million objects. The collector goes through them again and again while they are
loaded, and several times as Python ends, which takes a quarter of the time of a process that does little else.
"""

import atexit
import gc

gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
