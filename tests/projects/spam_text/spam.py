import re
import string
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.model_selection import train_test_split
import joblib

df = pd.read_csv("spam.csv", encoding="latin-1")[["v1", "v2"]]
df.columns = ["label", "text"]
df["label"] = df["label"].map({"ham": 0, "spam": 1})


def clean(text):
    text = text.lower()
    text = re.sub(r"\d+", "", text)
    return text.translate(str.maketrans("", "", string.punctuation))


df["text"] = df["text"].apply(clean)
X_train, X_test, y_train, y_test = train_test_split(df["text"], df["label"], test_size=0.2, random_state=42)
vectorizer = TfidfVectorizer(stop_words="english")
X_train_vec = vectorizer.fit_transform(X_train)
X_test_vec = vectorizer.transform(X_test)
model = MultinomialNB()
model.fit(X_train_vec, y_train)
print(model.score(X_test_vec, y_test))
joblib.dump(model, "spam.pkl")
joblib.dump(vectorizer, "vec.pkl")
