"""Training on the distinct tokens of rows that share prefixes: each is run once, exactly.

`+train=packed` switches it on. In the order of reading:

- `trie`: rows as a trie, depth-first; `packs`: which rows run together (both NumPy only);
- `visibility`: which tokens see which; `attention`, with `flash_pieces` on a CPU: each token sees its ancestors;
- `delta`: layers with a state, which goes to every child at a fork; `head`: scores in chunks;
- `rows`: verl's rows to a pack and back; `engine`: verl's FSDP2 engine over packs;
- `models`: which models can run, by their configuration; `probe`: packed rows against rows run apart, at load;
- `cost`: FLOPs of distinct tokens; `placement`: which rows go to which rank; `trainer`: the seam in verl's trainer;
- `activate`: what verl imports to have it all; `checks`: what is refused before Ray starts.
"""

VENDOR = "verl_atpo_packed"
"""Under this vendor verl's registry of engines knows the packed ones."""
ACTIVATE = "verl_atpo.packed.activate"
"""The module that `actor_rollout_ref.model.external_lib` names."""
