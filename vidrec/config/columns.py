"""Names of columns of table.csv that no task has of its own; a task names the others."""

# Behind F1 stands a class.
F1 = "test_f1_"
