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
    """Remarks on the test: no certain gain over popularity, few users."""
    assert run.details is not None
    found = []
    model, baseline = run.evaluation["ndcg@10"], run.evaluation["popularity"]["ndcg@10"]
    paired = [row for row in run.details["comparison"] if row["metric"] == "ndcg@10"]
    test, users = run.split["test"], run.evaluation["users"]
    if model <= baseline:
        found.append(no_gain("test", model, baseline, test["unreachable_targets"] / test["users"]))
    elif any(float(row["low"]) <= 0 for row in paired):
        text = f"the gain of {model - baseline:.4f} NDCG@10 over popularity can be chance: its 95% interval includes 0"
        cure = "more test users (split.test_fraction) narrow the interval, more training can raise the gain"
        found.append(Remark("popularity", "Gain over popularity uncertain", "accuracy", text, cure))
    for row in run.details["intervals"]:
        if (row["ranking"], row["metric"], row["k"]) == ("model", "ndcg", "10") and row["low"]:
            half = (float(row["high"]) - float(row["low"])) / 2
            if half > WIDE * model:
                chip = f"{users:,} test users: " + (f"±{half / model:.0%}" if model else "few")
                known = (
                    f"to within {half / model:.0%} of its value" if model else f"to be below {float(row['high']):.4f}"
                )
                cure = "smaller differences between two runs show only user by user (uv run cutrec compare)"
                if run.split["strategy"] == "temporal":
                    cure += "; a larger split.test_fraction tests more users"
                text = f"with {users:,} test users, NDCG@10 is only known {known}"
                found.append(Remark("few-users", chip, "accuracy", text, cure))
    return found
