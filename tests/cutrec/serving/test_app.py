"""Answers are the lists of `Recommender`; what is wrong is said in one sentence."""

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from cutrec import Recommender
from cutrec.errors import StageError
from cutrec.serving.observing import JsonLines
from cutrec.serving.schema import Recommend

KNOWN = [f"P-{item}" for item in range(1000, 1040)]
IDS = st.lists(st.sampled_from([*KNOWN, "P-1", "nothing", "ä"]), max_size=12)


@st.composite
def asks(draw: st.DrawFn) -> dict[str, Any]:
    """Requests that are allowed."""
    ask: dict[str, Any] = {"history": draw(IDS), "k": draw(st.integers(1, 12))}
    for name, values in (("filter_seen", st.booleans()), ("exclude", IDS), ("fallback", st.just("popularity"))):
        if draw(st.booleans()):
            ask[name] = draw(values)
    if draw(st.integers(0, 3)) == 0:
        ask["candidates"] = draw(IDS)
    return ask


def offline(model: Recommender, ask: dict[str, Any]) -> pl.DataFrame:
    """The list of `Recommender` for the same request; empty if no candidate is known, which it refuses."""
    options = {name: ask[name] for name in ("k", "filter_seen", "candidates", "fallback") if name in ask}
    if not set(ask.get("candidates", KNOWN)) & set(KNOWN):
        return pl.DataFrame({"item_id": [], "score": []})
    exclude = {0: ask["exclude"]} if "exclude" in ask else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.recommend(histories=[ask["history"]], exclude=exclude, frame="polars", **options)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(asks(), min_size=1, max_size=6))
def test_lists_are_those_of_the_recommender(client: TestClient, folder: Path, batch: list[dict[str, Any]]):
    model = _loaded(folder)
    answers = client.post("/recommend", json=batch).json()
    alone = [client.post("/recommend", json=ask).json() for ask in batch]
    assert [answer["items"] for answer in alone] == [answer["items"] for answer in answers]
    for ask, answer in zip(batch, answers, strict=True):
        expected = offline(model, ask)
        assert answer["items"] == expected["item_id"].to_list()
        assert answer["scores"] == pytest.approx(expected["score"].to_list(), rel=1e-5, abs=1e-6)
        for name in ("history", "exclude", "candidates"):
            unknown = [item for item in dict.fromkeys(ask.get(name, [])) if item not in KNOWN]
            assert answer["unknown"][name] == unknown


_MODELS: dict[Path, Recommender] = {}


def _loaded(folder: Path) -> Recommender:
    return _MODELS.setdefault(folder, Recommender.load(folder))


def test_similar_items_are_those_of_the_recommender(client: TestClient, folder: Path):
    answer = client.post("/similar", json={"items": ["P-1003", "none", "P-1001", "P-1003"], "k": 4}).json()
    assert answer["unknown"] == ["none"]
    found = [(one["item"], item) for one in answer["neighbors"] for item in one["items"]]
    expected = _loaded(folder).similar_items(["P-1003", "P-1001"], k=4, frame="polars")
    assert found == list(expected.select("item_id", "similar_item_id").iter_rows())
    assert client.post("/similar", json={"items": ["none"]}).json()["neighbors"] == []


RECOMMEND, SIMILAR = "/recommend", "/similar"
WRONG = [
    (RECOMMEND, {"k": 3}, 422, "history: found nothing, allowed: a value"),
    (RECOMMEND, {"history": "P-1"}, 422, "history: found 'P-1', allowed: a list"),
    (RECOMMEND, {"history": [1.5]}, 422, "history.0: found 1.5, allowed: ids, whole numbers or strings"),
    (RECOMMEND, [{"history": []}, {"history": [True]}], 422, "1.history.0: found True, allowed: ids, whole numbers or"),
    (RECOMMEND, {"history": [], "k": 0}, 422, "k: found 0, allowed: greater than or equal to 1"),
    (RECOMMEND, {"history": [], "k": "3"}, 422, "k: found '3', allowed: a whole number"),
    (RECOMMEND, {"history": [], "k": 41}, 422, "k: found 41, allowed: 1 to 40, the number of items"),
    (RECOMMEND, [{"history": []}, {"history": [], "k": 41}], 422, "1.k: found 41, allowed: 1 to 40"),
    (RECOMMEND, {"history": [], "k": 1001}, 422, "k: found 1001 items, allowed: at most 1000"),
    (RECOMMEND, {"history": [], "k": 10**400}, 422, "k: found 100000000000000000...0000000000000000000 items"),
    (RECOMMEND, {"history": [2**64]}, 422, "history: found [18446744073709551616], allowed: ids as in the log"),
    (RECOMMEND, {"history": [], "top": 3}, 422, "top: found an unknown key, allowed: history, k, filter_seen,"),
    (RECOMMEND, [{"history": [], "top": 3}], 422, "0.top: found an unknown key, allowed: history, k,"),
    (SIMILAR, {"items": [1], "top": 3}, 422, "top: found an unknown key, allowed: items, k"),
    (RECOMMEND, {"history": ["a"] * 10_001}, 422, "history: found 10001 ids, allowed: at most 10000"),
    (RECOMMEND, [{"history": []}] * 257, 422, "body: found 257 lists, allowed: at most 256"),
    (RECOMMEND, [], 422, "body: found [], allowed: at least one"),
    (RECOMMEND, 7, 422, "body: found 7, allowed: an object"),
    (RECOMMEND, {"history": [], "fallback": "x"}, 422, "fallback: found 'x', allowed: 'popularity'"),
    (RECOMMEND, {"history": ["x" * 1_000_000]}, 413, "body: found more than 1000000 bytes, allowed: at most so many"),
    (SIMILAR, {"items": ["P-1000"], "k": 40}, 422, "k: found 40, allowed: 1 to 39, the number of other items"),
    (SIMILAR, {"items": ["P-1000"] * 257}, 422, "items: found 257 lists, allowed: at most 256"),
    (SIMILAR, {"items": []}, 422, "items: found [], allowed: at least one"),
    ("/nothing", {}, 404, "path: found none of this name, allowed: /health,"),
    (RECOMMEND + "/", {"history": []}, 404, "path: found none of this name, allowed: /health,"),
    ("/health", {}, 405, "method: found POST, allowed: GET"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), WRONG)
def test_a_wrong_request_is_answered_by_one_sentence(client: TestClient, path, body, status, message):
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)


BODIES = [
    (b"{", 422),
    (b"\xff", 400),
    (b"[" * 100_000, 400),
    (b'{"history": [NaN]}', 422),
    (b'{"history": ["\\ud800"]}', 422),
    (b'{"history": [' + b"9" * 5000 + b"]}", 400),
    (b'{"\\ud800": 1, "history": []}', 422),
    (b"", 422),
]


@pytest.mark.parametrize(("body", "status"), BODIES)
def test_a_body_that_is_no_request_is_refused(client: TestClient, body: bytes, status: int):
    answer = client.post(RECOMMEND, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["error"].partition(": ")[2].startswith("found ")


@pytest.mark.parametrize("kind", ["text/plain", "\xff" * 99], ids=["text", "bytes"])
def test_a_body_that_is_not_said_to_be_json_is_refused_by_the_name_of_the_header(client: TestClient, kind: str):
    answer = client.post(RECOMMEND, content=b'{"history": []}', headers={b"content-type": kind.encode("latin-1")})
    assert answer.status_code == 415
    assert answer.json()["error"].startswith("Content-Type: found '")
    assert answer.json()["error"].endswith("', allowed: application/json")
    answer = client.post(RECOMMEND, content=b'{"history": []}')
    assert answer.json()["error"] == "Content-Type: found nothing, allowed: application/json"


def test_json_that_is_damaged_is_said_with_what_is_wrong(client: TestClient):
    answer = client.post(RECOMMEND, content=b"nonsense", headers={"content-type": "application/json"})
    assert answer.json()["error"] == "body: found no valid JSON (Expecting value), allowed: JSON"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(KNOWN),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=8,
)
NAMES = ("history", "k", "filter_seen", "exclude", "candidates", "fallback", "items")
ALMOST = asks() | st.dictionaries(st.sampled_from(NAMES), JSON | IDS | st.integers(-1, 50), max_size=6)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([RECOMMEND, SIMILAR]), body=JSON | ALMOST | st.lists(ALMOST, max_size=3))
def test_no_json_breaks_the_server(client: TestClient, path: str, body: Any):
    answer = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 422)
    assert answer.status_code == 200 or list(answer.json()) == ["error"]


def test_a_key_is_needed_where_one_is_set(serving):
    with serving(key="secret") as client:
        for path in ("/health", "/ready", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        body = {"history": ["P-1000"]}
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}):
            answer = client.post(RECOMMEND, json=body, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert client.get("/metrics", headers=headers).status_code == 401
        for scheme in ("Bearer", "bearer"):  # its case has no meaning
            assert client.post(RECOMMEND, json=body, headers={"Authorization": f"{scheme} secret"}).status_code == 200


def test_what_is_said_of_a_running_server(client: TestClient, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "cutrec.serving")
    client.post(RECOMMEND, json=[{"history": ["P-1000", "user@mail"]}, {"history": ["P-1001"]}])
    client.post(RECOMMEND, json={"history": [["user@mail"]]})
    client.get("/user@mail")
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert [(line["path"], line["status"]) for line in lines] == [(RECOMMEND, 200), (RECOMMEND, 422), ("other", 404)]
    assert (lines[0]["lists"], lines[0]["unknown"]) == (2, 1)
    assert "mail" not in str(lines)
    assert "P-1000" not in str(lines)
    ready = client.get("/ready").json()
    assert (ready["items"], ready["index"]) == (40, None)
    metrics = client.get("/metrics").text
    assert f'cutrec_model{{model="{ready["model"]}"}} 1.0' in metrics
    assert 'cutrec_requests_total{path="/recommend",status="422"} 1.0' in metrics
    assert "cutrec_unknown_ids_total 1.0" in metrics
    assert "process_resident_memory_bytes" in metrics


def test_the_description_has_the_examples_and_the_errors(client: TestClient):
    described = client.get("/openapi.json").json()["paths"][RECOMMEND]["post"]
    examples = described["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        assert client.post(RECOMMEND, json=example["value"]).status_code == 200
    assert {"400", "401", "408", "413", "422", "503"} <= set(described["responses"])


def test_a_defect_is_an_error_without_a_traceback(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client.server.model, "answer", lambda requests: 1 / 0)
    answer = client.post(RECOMMEND, json={"history": ["P-1000"]})
    assert (answer.status_code, answer.json()) == (500, {"error": "the server failed; its log says where"})


def test_a_request_that_cannot_be_ranked_does_not_fail_the_others(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    def without_counts(*_: Any) -> None:
        raise StageError("fallback: found no counts")

    monkeypatch.setattr("cutrec.recommending.ranker.fill_by_popularity", without_counts)
    asks = [Recommend(history=["P-1000"]), Recommend(history=[], fallback="popularity"), Recommend(history=["P-1003"])]
    first, second, third = client.server.model.answer(asks)
    assert len(first["items"]) == len(third["items"]) == 10
    assert isinstance(second, StageError)


def test_a_log_has_the_place_of_an_exception_and_not_its_text():
    try:
        raise ValueError("P-1000")
    except ValueError:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    line = JsonLines().format(record)
    assert json.loads(line)["exception"] == "ValueError"
    assert "test_app.py:" in line
    assert "P-1000" not in line
