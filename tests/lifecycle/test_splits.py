"""A row stays in its part of a split, and a champion is judged by rows that it has not seen."""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.conftest import ROOT
from modelworks.errors import ModelworksError
from modelworks.lifecycle import Card, DataSource, Feature, ModelSpec, Split, load_spec
from modelworks.lifecycle.bundle import build_bundle, verify_bundle
from modelworks.lifecycle.checks import check_rows
from modelworks.lifecycle.run_gates import run_gates
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.splits import PARTS, cluster_numbers, hold_out, row_hashes, split_rows, unseen
from modelworks.lifecycle.training import train

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def spec_of(split: Split) -> ModelSpec:
    return ModelSpec(
        where="model.py:1", name="m", description="d", owner="o", kind="regression", target="y", metric="mae",
        data=DataSource(load=pd.DataFrame, description="d", split=split), schema=pa.DataFrameSchema({}),
        features=(Feature(name="x", type="number"), Feature(name="n", type="integer")), train=lambda data: data,
        card=Card(intended_use="t"),
    )  # fmt: skip


def frame_of(count: int, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "x": generator.normal(size=count),
            "n": generator.integers(0, 1000, count),
            "customer": generator.integers(0, 50, count),
            "at": pd.date_range("2026-01-01", periods=count, freq="h", tz="UTC"),
            "y": generator.normal(size=count),
        }
    )


def part_of(split: Split, frame: pd.DataFrame) -> np.ndarray:
    found = np.full(len(frame), "none", dtype=object)
    for name, index in split_rows(spec_of(split), frame).items():
        found[index] = name
    return found


# -- By hash ---------------------------------------------------------------------------------------------------------
@given(st.randoms(use_true_random=False), st.integers(100, 400))
def test_a_row_is_in_the_same_part_whatever_rows_are_beside_it_and_in_whatever_order(random, kept):
    frame = frame_of(400)
    positions = random.sample(range(400), kept)
    assert part_of(Split(), frame.iloc[positions]).tolist() == part_of(Split(), frame)[positions].tolist()


def test_rows_of_one_key_are_in_one_part():
    frame = frame_of(2000)
    parts = pd.Series(part_of(Split(key="customer"), frame)).groupby(frame["customer"]).nunique()
    assert parts.eq(1).all()


def test_a_key_of_two_columns_is_both():
    frame = frame_of(2000)
    parts = pd.Series(part_of(Split(key=("customer", "n")), frame))
    assert parts.groupby(frame["customer"]).nunique().max() == 3
    assert parts.groupby([frame["customer"], frame["n"]]).nunique().max() == 1


def test_shares_are_those_of_the_spec():
    shares = pd.Series(part_of(Split(holdout_share=0.3, validation_share=0.1), frame_of(20_000))).value_counts(True)
    assert shares["holdout"] == pytest.approx(0.3, abs=0.015)
    assert shares["validation"] == pytest.approx(0.1, abs=0.015)


def test_equal_rows_are_in_one_part():
    frame = frame_of(300)
    twice = pd.concat([frame, frame.assign(y=-frame["y"])], ignore_index=True)
    parts = part_of(Split(), twice)
    assert parts[:300].tolist() == parts[300:].tolist()


VALUES = {
    "an integer beside a missing value": ([1, 2, 3], [1.0, 2.0, 3.0, None]),
    "a boolean beside a missing value": ([True, False], [True, False, None]),
    "negative zero": ([0.0], [-0.0]),
    "a category": (["a", "b"], pd.Categorical(["a", "b"], categories=["c", "b", "a"])),
    "a nullable integer": ([7], pd.array([7, None], dtype="Int64")),
    "a time of another resolution": (
        pd.to_datetime(["2026-01-01"], utc=True),
        pd.to_datetime(["2026-01-01"]).as_unit("s"),
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_a_value_has_one_hash_in_whatever_type_it_is_held(case):
    one, other = (row_hashes(pd.DataFrame({"v": values}), ["v"]) for values in VALUES[case])
    assert one.tolist() == other[: len(one)].tolist()


def test_large_integers_text_and_lists_that_differ_have_other_hashes():
    values = [[20240131, 2**53 + 1, 2**53 + 3, -5, 5], ["1", "", " ", "ä", "a"], [[1], [2], [1, 2], [], [0]]]
    assert [len(set(row_hashes(pd.DataFrame({"v": each}), ["v"]))) for each in values] == [5, 5, 5]


def mixed(bits: int) -> int:
    """SplitMix64, as its authors publish it, of one state."""
    bits = (bits + 0x9E3779B97F4A7C15) % 2**64
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
    return bits ^ (bits >> 31)


def hashed(row: dict) -> int:
    """The hash of a row by its definition, which no release may change: bundles hold rules that are read by it."""
    found = 0
    for _, value in sorted(row.items()):
        if value is None:
            found = mixed(found ^ 0x9E3779B97F4A7C15)
            continue
        if isinstance(value, datetime):
            bits = (value - EPOCH) // timedelta(microseconds=1)
        elif isinstance(value, float | int) and abs(value) <= 2**53:
            bits = int.from_bytes(struct.pack("<d", value + 0.0), "little")
        elif isinstance(value, int):
            bits = value
        else:
            bits = int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")
        found = mixed(found ^ mixed(bits % 2**64))
    return found


def test_the_published_numbers_of_splitmix64_are_those_of_the_definition_here():
    gamma = 0x9E3779B97F4A7C15
    found = [mixed((1_234_567 + step * gamma) % 2**64) for step in range(3)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "flag": st.booleans(),
                "count": st.integers(-(2**63) + 1, 2**63 - 1) | st.sampled_from([2**53, -(2**53), 2**53 + 1]),
                "size": st.none() | st.floats(-(2.0**53), 2.0**53),
                "name": st.none() | st.text(),
                "at": st.none() | st.integers(0, 2**52).map(lambda us: EPOCH + timedelta(microseconds=us)),
            }
        ),
        min_size=1,
    )
)
def test_the_hash_of_a_row_is_that_of_its_definition(rows):
    frame = pd.DataFrame(rows).astype({"flag": "bool", "count": "int64", "size": "float64"})
    frame["at"] = pd.to_datetime(frame["at"], utc=True).astype("datetime64[us, UTC]")
    assert row_hashes(frame, list(frame)).tolist() == [hashed(row) for row in rows]


def test_a_nullable_column_has_the_hashes_of_its_values():
    frame = pd.DataFrame({"n": pd.array([0, 1, None], dtype="Int64"), "s": pd.array([0.5, 2.0, None], dtype="Float64")})
    assert row_hashes(frame, ["n"]).tolist() == [hashed({"n": each}) for each in (0, 1, None)]
    assert row_hashes(frame, ["s"]).tolist() == [hashed({"s": each}) for each in (0.5, 2.0, None)]


def test_rows_of_one_cluster_have_one_number():
    spec, frame = spec_of(Split()), frame_of(300)
    assert cluster_numbers(spec, frame).tolist() == list(range(300))
    clustered = replace(spec, data=replace(spec.data, cluster="customer"))
    numbers = pd.Series(cluster_numbers(clustered, frame))
    assert set(numbers) == set(range(frame["customer"].nunique()))
    assert numbers.groupby(frame["customer"]).nunique().eq(1).all()


def test_a_class_that_no_training_row_has_is_named():
    spec = replace(spec_of(Split()), kind="multiclass", metric="accuracy", classes=("no", "yes", "perhaps"))
    frame = frame_of(300).assign(y=["no", "yes", "no"] * 100)
    with pytest.raises(
        ModelworksError, match=r"^model\.py:1: the training rows hold no y of \['perhaps'\]: a classifier"
    ):
        split_rows(spec, frame)
    assert split_rows(spec, frame.assign(y=["no", "yes", "perhaps"] * 100))


def test_a_seed_moves_no_row(project):
    first = project.spec.data.load()
    one = split_rows(project.spec, first)
    two = split_rows(project.edit("seed=1,", "seed=2,"), first)
    assert all(np.array_equal(one[name], two[name]) for name in PARTS)


# -- By time ---------------------------------------------------------------------------------------------------------
def test_a_relative_hold_out_moves_with_the_newest_row():
    split, frame = Split(time="at", holdout="10d", validation="5d"), frame_of(24 * 100)
    parts = part_of(split, frame)
    newest = frame["at"].max()
    assert frame["at"][parts == "holdout"].min() == newest - pd.Timedelta("10d")
    assert frame["at"][parts == "validation"].min() == newest - pd.Timedelta("15d")
    earlier = frame.iloc[: 24 * 50]
    held = part_of(split, earlier) == "holdout"
    assert earlier["at"][held].min() == earlier["at"].max() - pd.Timedelta("10d")


@pytest.mark.parametrize(
    "split",
    [
        Split(time="at", holdout="10d", embargo="36h"),
        Split(time="at", validation_from="2026-03-01", holdout_from="2026-03-20T00:00+00:00", embargo="36h"),
    ],
    ids=["relative", "absolute"],
)
def test_rows_in_an_embargo_are_in_no_part(split):
    frame = frame_of(24 * 100)
    parts = part_of(split, frame)
    at = {name: frame["at"][parts == name] for name in PARTS}
    assert at["validation"].min() - at["train"].max() > pd.Timedelta("36h")
    assert at["holdout"].min() - at["validation"].max() > pd.Timedelta("36h")
    assert (parts == "none").sum() == 2 * 36


def test_an_embargo_shortens_neither_hold_out_nor_validation():
    frame = frame_of(24 * 100)
    parts = part_of(Split(time="at", holdout="10d", validation="5d", embargo="36h"), frame)
    newest = frame["at"].max()
    assert frame["at"][parts == "holdout"].min() == newest - pd.Timedelta("10d")
    assert frame["at"][parts == "validation"].min() == newest - pd.Timedelta("10d") - pd.Timedelta(
        "36h"
    ) - pd.Timedelta("5d")


@pytest.mark.parametrize("shown", ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M+00:00"])
def test_a_time_in_text_or_without_a_zone_is_one_of_utc(shown):
    frame, split = (
        frame_of(24 * 100),
        Split(time="at", validation_from="2026-03-01", holdout_from="2026-03-20T02:00+02:00"),
    )
    other = frame.assign(at=frame["at"].dt.strftime(shown))
    assert part_of(split, other).tolist() == part_of(split, frame).tolist()


def test_validation_is_as_long_as_the_hold_out_unless_stated():
    parts = pd.Series(part_of(Split(time="at", holdout="240min"), frame_of(100)))
    assert parts.value_counts()[["validation", "holdout"]].tolist() == [4, 5]


def test_a_row_without_a_time_never_trains_and_is_an_error_of_the_data():
    frame = frame_of(24 * 100)
    frame.loc[[3, 7], "at"] = pd.NaT
    spec = spec_of(Split(time="at", holdout="10d"))
    assert not {3, 7} & set(np.concatenate(list(split_rows(spec, frame).values())))
    findings = [each for each in check_rows(spec, frame, "sha256:0").findings if each.severity == "error"]
    assert [(each.subject, each.message, each.examples) for each in findings] == [
        ("at", "the time is missing", ("row 3", "row 7"))
    ]


def test_a_row_without_its_key_is_an_error_of_the_data():
    frame = frame_of(200).astype({"customer": "float64"})
    frame.loc[5, "customer"] = np.nan
    report = check_rows(spec_of(Split(key="customer")), frame, "sha256:0")
    assert [(each.subject, each.count) for each in report.findings if each.severity == "error"] == [("customer", 1)]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"time": "at"}, "needs either holdout"),
        ({"time": "at", "holdout": "60d", "holdout_from": "2026-01-01"}, "needs either holdout"),
        ({"time": "at", "holdout": "60"}, "a number and min, h, d or w, such as 60d, got '60'"),
        ({"time": "at", "holdout": "0d"}, "a number and min, h, d or w"),
        ({"time": "at", "holdout": "60d", "embargo": "-1d"}, "embargo of a split is a number"),
        ({"time": "at", "holdout": "60d", "key": "customer"}, "takes no key"),
        ({"holdout": "60d"}, "holdout and validation of a split need time"),
        ({"embargo": "1d"}, "embargo of a split need time"),
        ({"time": "at", "validation_from": "2026-9-1", "holdout_from": "2026-11-01"}, "ISO 8601, got '2026-9-1'"),
        ({"time": "at", "validation_from": "2026-11-01", "holdout_from": "2026-11-01"}, "validation_from before"),
        ({"holdout_share": 0.9, "validation_share": 0.1}, "leave rows to train on"),
    ],
)
def test_a_split_that_contradicts_itself_is_refused(options, rule):
    with pytest.raises(ModelworksError, match=re.escape(rule)):
        Split(**options)


# -- Rows that neither has seen --------------------------------------------------------------------------------------
@pytest.mark.parametrize("split", [Split(), Split(key="customer"), Split(time="at", holdout="10d", embargo="1d")])
def test_the_rule_of_a_bundle_finds_the_rows_that_its_training_left_out(split):
    frame = frame_of(24 * 100)
    spec, parts = spec_of(split), split_rows(spec_of(split), frame)
    found = unseen(hold_out(spec, frame, parts), frame)
    assert set(parts["holdout"]) <= set(found)
    assert not set(found) & {*parts["train"], *parts["validation"]}


@pytest.mark.parametrize("split", [Split(key="customer"), Split(time="at", holdout="10d")])
def test_rows_without_the_columns_of_a_split_cannot_be_told_apart(split):
    frame = frame_of(24 * 100)
    rule = hold_out(spec_of(split), frame, split_rows(spec_of(split), frame))
    assert "which this data has not" in unseen(rule, frame[["x", "n", "y"]])


GROWING = """
import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.ensemble import RandomForestClassifier

from modelworks.lifecycle import Card, ChampionGate, DataSource, Feature, ModelSpec, Split

ROWS = 2000


def load():
    generator = np.random.default_rng(5)
    x = generator.normal(size=(4000, 4))
    noise = generator.logistic(size=4000)
    at = pd.date_range("2026-01-01", periods=4000, freq="h", tz="UTC")
    frame = pd.DataFrame(x, columns=list("abcd")).assign(at=at, late=x.sum(axis=1) * 0.6 + noise > 0)
    return frame.head(ROWS)


def train(data):
    return RandomForestClassifier(40, random_state=0, n_jobs=1).fit(data.x, data.y)


spec = ModelSpec(
    name="growing", description="d", owner="o", kind="binary", classes=(False, True), target="late", metric="auc",
    data=DataSource(load=load, description="d", split=Split()), schema=pa.DataFrameSchema({}),
    features=tuple(Feature(name=name, type="number", example=0.5) for name in "abcd"), train=train,
    gates=(ChampionGate(metric="auc", margin=0.05),), card=Card(intended_use="t"),
)
"""


class Growing:
    """A flexible model over noisy rows, which come to be more."""

    def __init__(self, root: Path):
        self.folder, self.home = root / "models" / "growing", Home(root / "home")
        self.folder.mkdir(parents=True)
        shutil.copyfile(ROOT / "uv.lock", root / "uv.lock")

    def release(self, rows: int, split: str = "Split()"):
        text = GROWING.replace("ROWS = 2000", f"ROWS = {rows}").replace("split=Split()", f"split={split}")
        (self.folder / "model.py").write_text(text)
        run = train(load_spec(self.folder), self.home)
        return run, build_bundle(run, self.home)

    def verdict(self, challenger, champion):
        report = run_gates(*challenger, self.home, "local", champion=champion[1].path)
        return next(each for each in report.results if each.gate == "ChampionGate")


@pytest.fixture
def growing(tmp_path):
    return Growing(tmp_path)


def test_a_champion_is_not_judged_by_rows_it_was_trained_on_when_the_data_has_grown(growing):
    champion = growing.release(2000)
    verdict = growing.verdict(growing.release(2001), champion)
    theirs = float(re.search(r"the champion \(([\d.]+)\)", verdict.message)[1])
    assert theirs == pytest.approx(champion[0].metrics["auc"], abs=0.005)
    assert verdict.number == pytest.approx(0, abs=0.02)
    assert verdict.verdict == "pass"
    assert verify_bundle(champion[1].path, champion[1].digest, "growing").holdout.share == 0.25


def test_a_champion_that_has_seen_the_whole_hold_out_decides_nothing(growing):
    split = "Split(time='at', holdout='20d')"
    champion = growing.release(3000, split)
    verdict = growing.verdict(growing.release(2500, split), champion)
    assert (verdict.verdict, verdict.number) == ("inconclusive", None)
    assert "the champion was not trained on 0, fewer than the 100 it takes to decide" in verdict.message


def test_a_champion_of_another_split_is_compared_on_the_rows_that_both_left_out(growing):
    champion = growing.release(2000)
    verdict = growing.verdict(growing.release(2000, "Split(time='at', holdout='25d')"), champion)
    rows = int(re.search(r"on the (\d+) rows that neither", verdict.message)[1])
    assert 100 < rows < 200
