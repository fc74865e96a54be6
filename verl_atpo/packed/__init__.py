"""Every token once: training on the distinct tokens of rows that share prefixes, exactly.

`+train=packed` switches it on. In the order of reading:

- `trie`: rows as a trie, depth-first; `packs`: which rows run together (both NumPy only);
- `attention`: each token sees its ancestors; `rows`: verl's rows to a pack and back;
- `engine`: verl's FSDP2 engine over packs; `models`: which models it can run;
- `placement`: which rows go to which rank; `trainer`: where that enters verl's trainer;
- `activate`: what verl imports to have it all, and `checks`: what is refused before Ray starts.
"""

VENDOR = "verl_atpo_packed"
"""Under this vendor verl's registry of engines knows the packed ones."""
ACTIVATE = "verl_atpo.packed.activate"
"""The module that `actor_rollout_ref.model.external_lib` names."""
