"""The paper's method: tree, expansion, credit, estimator and loss. Of these only estimator and loss need torch."""
