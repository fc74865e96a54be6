"""The paper's setting: an agent that searches, its tool and retriever, its reward and its evaluation."""
