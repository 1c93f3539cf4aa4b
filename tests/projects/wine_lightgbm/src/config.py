PARAMS = {"n_estimators": 40, "num_leaves": 15, "min_child_samples": 10, "verbose": -1}
