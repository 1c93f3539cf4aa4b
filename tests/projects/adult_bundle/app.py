from flask import Flask, request
import pickle, pandas as pd
app = Flask(__name__)
bundle = pickle.load(open("model.pkl", "rb"))
@app.route("/predict", methods=["POST"])
def predict():
    df = pd.DataFrame([request.json])
    return {"p": float(bundle["model"].predict_proba(df[bundle["columns"]])[0, 1])}
if __name__ == "__main__":
    app.run()
