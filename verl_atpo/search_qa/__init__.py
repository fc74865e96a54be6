"""The paper's setting: a search agent with its tool, retriever, reward and evaluation."""
