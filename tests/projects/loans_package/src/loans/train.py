import argparse
import logging
import pickle

from loans.data import load_loans, split
from loans.model import build_model

logger = logging.getLogger(__name__)


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trees", type=int, default=40)
    parser.add_argument("--max-depth", dest="depth", type=int, default=5)
    parser.add_argument("--test-size", type=float, default=0.2)
    parser.add_argument("-o", "--out", default="model.pkl")
    return parser.parse_args()


def main():
    args = parse_args()
    frame = load_loans()
    X_train, X_test, y_train, y_test = split(frame, args.test_size)
    model = build_model(args.trees, args.depth)
    model.fit(X_train, y_train)
    logger.info("score %s", model.score(X_test, y_test))
    with open(args.out, "wb") as file:
        pickle.dump(model, file)


if __name__ == "__main__":
    main()
