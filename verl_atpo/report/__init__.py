"""Reports of finished trees: records, dumps, metrics, loggers."""
