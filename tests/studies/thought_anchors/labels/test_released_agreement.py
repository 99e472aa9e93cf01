"""The rule-based labels against the released ones of two traces (made by gpt-4o).

Neither trace was looked at while the rules were written, and the rules were not changed after
their first run on them, so the figures are honest ones. Measured (ours against theirs):

  4682, 145 sentences: accuracy .538 (their commonest tag throughout: .283), Cohen's kappa .433;
    well found are computation (precision .69, recall .84) and doubt (.62, .75), badly plans
    (.42, .38), facts (.28, .33), checks (1 right of 11 called so) and consolidations (recall
    .29); dependencies: precision .65, recall .65, F1 .65, which is less than linking every
    sentence to the one before (.83, .77, .80); of their 36 links further back 8 are found, with
    47 named.
  330, 26 sentences: accuracy .808, which is their commonest tag throughout, kappa .139;
    dependencies F1 .98, as by linking to the one before.
"""

from __future__ import annotations

import pytest

from interp_jax.studies.thought_anchors.labels.agreement import agreement
from interp_jax.studies.thought_anchors.labels.labels import labels_of_records
from interp_jax.studies.thought_anchors.labels.rules import label_with_rules
from interp_jax.studies.thought_anchors.released import read_trace


@pytest.mark.parametrize("name, accuracy, kappa, links, far", [
    ("qwen", 0.537, 0.432, 0.649, 8), ("llama", 0.807, 0.138, 0.979, 0),
])
def test_rules_agree_with_the_released_labels_as_measured(
    released_folder, name, accuracy, kappa, links, far
):
    trace = read_trace(released_folder(name))
    theirs = labels_of_records(trace.labeled)
    assert not theirs.dropped  # every record, known tags, links that point back
    ours = label_with_rules(
        trace.problem["problem"], [record["chunk"] for record in trace.labeled]
    )
    found = agreement(ours, theirs)
    print(found.table())
    assert found.accuracy >= accuracy and found.kappa >= kappa
    assert found.links.f1 >= links and found.far.both >= far
