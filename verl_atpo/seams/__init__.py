"""The places in verl, Ray and vLLM that this package depends on, and the checks that they are there."""
