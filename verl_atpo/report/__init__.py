"""What is reported of finished trees: records, dumps, metrics, loggers."""
