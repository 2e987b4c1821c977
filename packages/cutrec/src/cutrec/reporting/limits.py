"""What limits the result of a whole run: the chips at the top of the report."""

from cutrec.reporting.remarks import Remark, no_gain, split_remarks, training_remarks
from cutrec.reporting.run_outputs import RunOutputs

WIDE = 0.1
"""Half an interval of the test's NDCG@10, as a part of its value, from which on the test users are few."""


def limits(run: RunOutputs) -> list[Remark]:
    """What limits a run's result, the most important first; for a synthetic log only that it is one."""
    config = run.config
    found = []
    if config.paper_faithful:
        text = (
            "the known defects of the paper's own code are repeated, to compare with its tables (paper_faithful=true)"
        )
        found.append(Remark("defects", "Defects of the paper's code", "accuracy", text, ""))
    if config.dataset.startswith("twin:"):
        text = "a synthetic log has the shape of a real one and nothing to learn, so no accuracy is reported"
        return [*found, Remark("synthetic", "Synthetic log: no accuracy", "data", text, "")]
    users = run.split.get("validation", {}).get("users", 0)
    return [
        *found,
        *_tested(run),
        *split_remarks(config, run.split),
        *training_remarks(config.train, config.max_seq_len, run.training, users),
    ]


def _tested(run: RunOutputs) -> list[Remark]:
    found = (_uncertain_gain(run), _few_users(run))
    return [remark for remark in found if remark]


def _uncertain_gain(run: RunOutputs) -> Remark | None:
    """No gain over the ranking by popularity, or one that can be chance."""
    model, baseline = run.evaluation["ndcg@10"], run.evaluation["popularity"]["ndcg@10"]
    rows = run.details["comparison"] if run.details else []
    if model <= baseline:
        test = run.split["test"]
        return no_gain("test", model, baseline, test["unreachable_targets"] / test["users"])
    if all(float(row["low"]) > 0 for row in rows if row["metric"] == "ndcg@10"):
        return None
    text = f"the gain of {model - baseline:.4f} NDCG@10 over popularity can be chance: its 95% interval includes 0"
    cure = "more training can raise the gain, more test users make it certain"
    return Remark("popularity", "Gain over popularity uncertain", "accuracy", text, cure)


def _few_users(run: RunOutputs) -> Remark | None:
    """A wide interval; a single user has none, so that all values from 0 to 1 are possible."""
    rows = run.details["intervals"] if run.details else []
    (row,) = (row for row in rows if (row["ranking"], row["metric"], row["k"]) == ("model", "ndcg", "10"))
    low, high = float(row["low"] or 0), float(row["high"] or 1)
    value, half, users = float(row["value"]), (high - low) / 2, run.evaluation["users"]
    if half <= WIDE * value:
        return None
    chip, known = f"{users:,} test users", f"to be below {high:.4f}"
    if value > 0:
        chip, known = f"{chip}: ±{half / value:.0%}", f"to within {half / value:.0%} of its value"
    cure = "smaller differences between two runs show only user by user (uv run cutrec compare)"
    if run.split["strategy"] == "temporal":
        cure += "; a larger split.test_fraction tests more users"
    return Remark("few-users", chip, "accuracy", f"with {users:,} test users, NDCG@10 is only known {known}", cure)
