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
        return no_gain("test", model, baseline, test["unreachable_targets"] / test.get("targets", test["users"]))
    (p_value,) = (float(row["p_value"]) for row in rows if row["metric"] == "ndcg@10")
    if p_value < 0.05:
        return None
    gain = f"the gain of {model - baseline:.4f} NDCG@10 over popularity"
    text = f"{gain} can be chance (permutation test: p = {p_value:.2g})"
    cure = "more training can raise the gain, more test users make it certain"
    return Remark("popularity", "Gain over popularity uncertain", "accuracy", text, cure)


def _few_users(run: RunOutputs) -> Remark | None:
    """A wide interval, or too few users for any (by the rule of `rec_eval.metrics.intervals`)."""
    rows = run.details["intervals"] if run.details else []
    (row,) = (row for row in rows if (row["ranking"], row["metric"], row["k"]) == ("model", "ndcg", "10"))
    users = f"{run.evaluation['users']:,} test users"
    cure = "smaller differences between two runs show only user by user (uv run cutrec compare)"
    if run.split["strategy"] == "temporal":
        cure += "; a larger split.test_fraction tests more users"
    if not row["low"]:
        text = f"{users} are too few, or too few of them were hit, for an interval of NDCG@10"
        return Remark("few-users", f"Too few test users: {run.evaluation['users']:,}", "accuracy", text, cure)
    value, half = float(row["value"]), (float(row["high"]) - float(row["low"])) / 2
    if half <= WIDE * value:
        return None
    text = f"with {users}, NDCG@10 is only known to within {half / value:.0%} of its value"
    return Remark("few-users", f"{users}: ±{half / value:.0%}", "accuracy", text, cure)
