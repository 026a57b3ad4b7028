"""The benchmark of consensus runs, and its methods differ on annotators of different skill."""

from benchmarks import consensus


def test_a_quick_pass(capsys):
    consensus.main(["--quick"])
    assert "claim_consensus_noise" in capsys.readouterr().out
    votes, true, classes = consensus.simulated(2000)
    found = consensus.settle(votes, len(classes))
    wrong = {name: (labels != true).mean() for name, labels in found.items()}
    assert wrong["Dawid-Skene"] < wrong["majority"]
