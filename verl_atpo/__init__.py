"""AT2PO (arXiv 2601.04767) for verl: entropy-guided trees, turn-wise credit, turn-level policy loss.

The map, from the paper to the code:

| paper | file | public name |
|---|---|---|
| entropy-guided tree expansion | ``expansion.py`` | ``select_turns``, ``register_strategy`` |
| the turn tree | ``tree.py`` | ``TurnTree`` |
| turn-wise credit assignment | ``credit.py`` | ``node_values``, ``node_advantages`` |
| advantage of a turn | ``advantage.py`` | ``compute_atpo_advantage``, estimator ``atpo`` |
| ATPO objective | ``policy_loss.py`` | ``compute_policy_loss_atpo``, policy loss ``atpo`` |
| rollout | ``rollout/`` | ``TreeAgentLoopManager`` |
| tools and environments | ``tools/`` | ``StatefulTool``, ``SearchTool``, ``PythonTool`` |
| retrieval | ``retriever/`` | ``python -m verl_atpo.search_qa.retriever`` |
| reward, evaluation | ``rewards/``, ``evaluation.py`` | ``compute_score``, ``python -m verl_atpo.search_qa.evaluation`` |
| hyper-parameters | ``config.py``, ``presets.py`` | ``AtpoConfig``, ``+atpo=tree`` / ``paper`` / ``chain`` |

verl finds the package through its entry point ``verl.plugins`` (``plugin.py``); nothing has to be imported by hand.
"""
