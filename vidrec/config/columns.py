"""Names of the columns of table.csv."""

# Columns of table.csv that are measured; behind F1 stands a class.
MEASURED = (
    *("test_accuracy", "test_avg_f1", "test_top5", "val_accuracy", "train_accuracy"),
    *("params", "epochs", "seconds_compile", "seconds_train"),
    *("test_top10", "test_loss", "val_loss", "train_loss", "best_epoch", "test_clip_accuracy"),
    *("test_balanced_accuracy", "val_balanced_accuracy", "train_balanced_accuracy"),
    *("test_objective", "val_objective", "train_objective"),
)
F1 = "test_f1_"
