import gc
import lightgbm as lgb
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

train_df = pd.read_csv("/kaggle/input/santander/train.csv")
test_df = pd.read_csv("/kaggle/input/santander/test.csv")
features = [c for c in train_df.columns if c not in ["ID_code", "target"]]
target = train_df["target"]
param = {"objective": "binary", "learning_rate": 0.1, "num_leaves": 7, "verbosity": -1, "num_threads": 1, "seed": 1}
folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=44000)
oof = np.zeros(len(train_df))
predictions = np.zeros(len(test_df))
for fold_, (trn_idx, val_idx) in enumerate(folds.split(train_df.values, target.values)):
    print("Fold {}".format(fold_))
    trn_data = lgb.Dataset(train_df.iloc[trn_idx][features], label=target.iloc[trn_idx])
    val_data = lgb.Dataset(train_df.iloc[val_idx][features], label=target.iloc[val_idx])
    clf = lgb.train(param, trn_data, 100, valid_sets=[trn_data, val_data], callbacks=[lgb.early_stopping(10)])
    oof[val_idx] = clf.predict(train_df.iloc[val_idx][features], num_iteration=clf.best_iteration)
    predictions += clf.predict(test_df[features], num_iteration=clf.best_iteration) / folds.n_splits
print("CV", roc_auc_score(target, oof))
