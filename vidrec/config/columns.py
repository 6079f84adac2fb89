"""Names of columns of table.csv that no task lists; each task lists its other columns."""

# Prefix of the column with the F1 of a class; the name of the class follows.
F1 = "test_f1_"
