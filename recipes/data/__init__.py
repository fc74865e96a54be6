"""The paper's seven question-answering benchmarks as verl data files."""
