"""AT2PO (arXiv 2601.04767) for verl: entropy-guided trees, turn-wise credit, turn-level policy loss.

The map, from the paper to the code:

| paper | file | public name |
|---|---|---|
| the turn tree | ``tree/tree.py`` | ``TurnTree`` |
| entropy-guided tree expansion | ``method/expansion.py`` | ``select_turns``, ``register_strategy`` |
| turn-wise credit assignment | ``method/credit.py`` | ``node_values``, ``normalization``, ``turn_advantage`` |
| credit schemes, the paper's among them | ``method/scheme.py``, ``schemes/`` | ``Scheme``, ``register_scheme`` |
| beyond the paper: split weights | ``schemes/split.py`` | ``Split`` |
| beyond the paper: rewards of tools, returns to go | ``schemes/returns.py`` | ``Returns`` |
| beyond the paper: one shrunk baseline per turn | ``schemes/shrunk.py``, ``method/posterior.py`` | ``Shrunk`` |
| beyond the paper: selection where noise falls most | ``method/noise.py`` | ``relative_noise`` |
| beyond the paper: equal contexts in several trajectories | ``tree/contexts.py`` | ``group_contexts`` |
| beyond the paper: adaptive budgets | ``rollout/budget.py`` | ``TreeBudget``, ``SpareExpansions`` |
| beyond the paper: A²TGPO, information gains | ``schemes/a2tgpo/`` | ``A2TGPO``, estimator ``a2tgpo`` |
| credit on its way to the estimator | ``method/channel.py`` | ``write_row``, ``read_rows`` |
| advantage of a turn | ``method/estimator.py`` | ``compute_atpo_advantage``, estimator ``atpo`` |
| ATPO objective | ``method/loss.py`` | ``compute_policy_loss_atpo``, policy loss ``atpo`` |
| tree rollout | ``replay/`` (one trajectory), ``rollout/`` (one tree) | ``TreeAgentLoopManager`` |
| agents that speak chat completions | ``gateway/`` | ``+agent=gateway`` |
| training every distinct token once | ``packed/`` | ``+train=packed`` |
| tools and environments | ``tools/`` | ``StatefulTool``, ``PythonTool`` |
| the paper's search agent, its reward and retriever | ``search_qa/`` | ``SearchTool``, ``compute_score`` |
| hyper-parameters | ``config.py``, ``startup/presets.py`` | ``AtpoConfig``, ``+atpo=tree`` / ``paper`` / ``chain`` |

verl finds the package through its entry point ``verl.plugins`` (``plugin.py``); nothing has to be imported by hand.
"""
