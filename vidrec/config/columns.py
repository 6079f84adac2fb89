"""Names of columns of table.csv that no task has of its own; a task names the others."""

# F1 is followed by a class.
F1 = "test_f1_"
