"""A model whose answers depend on the other rows of a call, noticed while it serves."""

from __future__ import annotations

from typing import Any

from modelworks.runtime.server import engine
from runtime import small
from runtime.small import ask, get, listening, logged, post

TWO = b'{"rows": [{"x": 1}, {"x": 2}]}'


class Depends(small.Model):
    """Answers the number of rows of the call."""

    def predict(self, rows: list[Any]) -> Any:
        return small.Model().predict(rows)._replace(values=[float(len(rows))] * len(rows))


async def test_a_call_in_a_thousand_is_checked_and_what_depends_is_counted_and_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_CHECKED_CALLS", 10)
    app = small.build(tmp_path, Depends())
    async with listening(app) as (_, port):
        for _ in range(20):
            assert (await ask(port, post(body=TWO)))[0] == 200
            assert (await ask(port, post()))[0] == 200  # one row depends on nobody
        page = (await ask(port, get(b"/metrics")))[2].decode()
    assert "modelworks_dependent_answers_total 2" in page
    assert [each for each in logged(app) if "depends" in each] == [
        "an answer depends on the other rows of its call"
    ] * 2
