import numpy as np, pandas as pd
import warnings
warnings.filterwarnings('ignore')
from sklearn.preprocessing import LabelEncoder
from sklearn.model_selection import KFold, cross_val_score, train_test_split
from xgboost import XGBRegressor

train = pd.read_csv('../input/house-prices/train.csv')
test = pd.read_csv('../input/house-prices/test.csv')
train_id = train['Id']
test_id = test['Id']
train.drop('Id', axis=1, inplace=True)
test.drop('Id', axis=1, inplace=True)

# remove outliers
train = train[train['GrLivArea'] < 4000].reset_index(drop=True)
train['SalePrice'] = np.log1p(train['SalePrice'])
y_train = train.SalePrice.values
ntrain = train.shape[0]
all_data = pd.concat((train, test)).reset_index(drop=True)
all_data.drop(['SalePrice'], axis=1, inplace=True)

for col in ('Alley', 'Fence'):
    all_data[col] = all_data[col].fillna('None')
all_data['LotFrontage'] = all_data.groupby('Neighborhood')['LotFrontage'].transform(lambda x: x.fillna(x.median()))
cols = ('Alley', 'Fence', 'Neighborhood')
for c in cols:
    lbl = LabelEncoder()
    lbl.fit(list(all_data[c].values))
    all_data[c] = lbl.transform(list(all_data[c].values))
all_data['TotalSF'] = all_data['GrLivArea'] + all_data['BsmtSF']

train = all_data[:ntrain]
test = all_data[ntrain:]

def rmse_cv(model):
    kf = KFold(5, shuffle=True, random_state=42)
    return np.sqrt(-cross_val_score(model, train.values, y_train, scoring='neg_mean_squared_error', cv=kf))

model_xgb = XGBRegressor(n_estimators=50, max_depth=3, random_state=7)
model_xgb.fit(train, y_train)
pred = np.expm1(model_xgb.predict(test))
sub = pd.DataFrame({'Id': test_id, 'SalePrice': pred})
sub.to_csv('submission.csv', index=False)
