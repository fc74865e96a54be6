"""Agents that know nothing of verl: three programs that repair a small repository, trained through the gateway.

| file | what it holds |
|---|---|
| `openai_client.py` | the agent as 25 lines with the package `openai` |
| `agents_sdk.py` | the same task with the OpenAI Agents SDK |
| `program.py` | the same task as a command line program of the standard library |
| `repository.py` | a repository with faults, its checks and the tools to repair it |
| `tasks.py` | tasks, drawn at random, as rows of verl's data |
| `reward.py` | whether the checks pass, from the files that the agent leaves |
| `chat.py`, `demos.py` | the format of a call in few tokens; a careless demonstrator |
| `prepare.py` | data and a tiny model |
| `run.sh` | all of it: prepare, train, report |
| `results.py` | the table of finished runs |
"""
