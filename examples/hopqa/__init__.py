"""Multi-hop questions over a small generated world, answered with a search tool.

| file | what it holds |
|---|---|
| `schema.py` | the kinds of entities and their relations |
| `lexicon.py` | made-up words that names are composed of |
| `world.py` | entities, their relations, their passages |
| `questions.py` | questions of 1 to 4 hops, verl rows |
| `retrieval.py` | BM25 over the passages |
| `search_tool.py` | the `search` function tool that verl loads |
| `chat.py` | tokenizer, chat format |
| `demos.py` | imperfect demonstrations |
| `warm_start.py` | the model's supervised phase |
| `sampler.py` | batched sampling with the tool, accuracy by hops |
| `prepare.py` | command line: everything above, in stages |

`examples/quickstart.sh` trains it. What other examples share with it is in `examples.kit`.
"""
