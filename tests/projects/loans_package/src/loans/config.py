from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA_DIR = ROOT / "data"
TARGET = "default"
DROPPED = ["loan_id", "comment"]
