"""What the examples share; a task's own folder holds only what is about the task.

| file | what it holds |
|---|---|
| `run.sh`, `steps.sh` | the run script: prepare, train with main_ppo, show |
| `tokenizer.py` | byte-level tokenizers, trained on the words of a task |
| `chat.py`, `chat_template.jinja` | the chat format: ChatML with Hermes tool calls |
| `answer_reward.py` | exact match of the tagged answer, a reward that verl loads |
| `model.py` | a Qwen3 of 0.2 million parameters |
| `demo.py` | demonstrations, as they are written and as they are kept |
| `training.py` | the warm start: imitating demonstrations |
| `sampling.py` | sampling turns without an engine |
| `stages.py` | the stages of a task's `prepare` |
| `watch.py` | command line: a line a step while verl trains |
| `summary.py` | command line: accuracy before and after training, learning curve |
"""
