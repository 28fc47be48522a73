"""Which tasks there are: the named ones of mteb, MTEB(eng, v2), and whatever lies in a local folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.errors import ConfigError

TRIPLETS = "triplets"
"""The task of ranking held-out triplets, and the local folder of all triplets."""
ENGLISH = "mteb-eng-v2"
"""Stands for all tasks of the benchmark on the command line."""
BENCHMARK = "MTEB(eng, v2)"
"""Its name in mteb."""


@dataclass(frozen=True, kw_only=True)
class HubTask:
    """A task of mteb on the hub's data."""

    mteb: str
    """Its name there."""
    splits: tuple[str, ...] = ()
    """Empty: those of mteb."""
    subsets: tuple[str, ...] = ()
    """Languages; empty: all."""
    long_texts: bool = False


NAMED: Mapping[str, HubTask] = {
    "msmarco": HubTask(mteb="MSMARCO", splits=("dev",)),
    "codesearchnet": HubTask(mteb="CodeSearchNetRetrieval"),
    "codesearchnet_coir": HubTask(mteb="COIRCodeSearchNetRetrieval"),
    "mldr": HubTask(mteb="MultiLongDocRetrieval", splits=("test",), subsets=("en",), long_texts=True),
}
"""Retrieval tasks of the paper's tables. Which of the two of CodeSearchNet is theirs is not said: mteb's searches 1,000
functions of each of six languages, CoIR's a million."""

TYPES: Mapping[str, tuple[str, ...]] = {
    "Retrieval": (
        "ArguAna", "CQADupstackGamingRetrieval", "CQADupstackUnixRetrieval", "ClimateFEVERHardNegatives",
        "FEVERHardNegatives", "FiQA2018", "HotpotQAHardNegatives", "SCIDOCS", "TRECCOVID", "Touche2020Retrieval.v3",
    ),
    "STS": ("BIOSSES", "SICK-R", "STS12", "STS13", "STS14", "STS15", "STS17", "STS22.v2", "STSBenchmark"),
    "Clustering": (
        "ArXivHierarchicalClusteringP2P", "ArXivHierarchicalClusteringS2S", "BiorxivClusteringP2P.v2",
        "MedrxivClusteringP2P.v2", "MedrxivClusteringS2S.v2", "StackExchangeClustering.v2",
        "StackExchangeClusteringP2P.v2", "TwentyNewsgroupsClustering.v2",
    ),
    "Classification": (
        "AmazonCounterfactualClassification", "Banking77Classification", "ImdbClassification",
        "MTOPDomainClassification", "MassiveIntentClassification", "MassiveScenarioClassification",
        "ToxicConversationsClassification", "TweetSentimentExtractionClassification",
    ),
    "PairClassification": ("SprintDuplicateQuestions", "TwitterSemEval2015", "TwitterURLCorpus"),
    "Reranking": ("AskUbuntuDupQuestions", "MindSmallReranking"),
    "Summarization": ("SummEvalSummarization.v2",),
}  # fmt: skip
"""Type -> tasks of MTEB(eng, v2)."""
ENGLISH_TASKS = tuple(task for tasks in TYPES.values() for task in tasks)

LOCAL_FOLDERS = ("retrieval", "mteb")
"""Below the local folder; each folder in them is a task of its name."""


def local_folders(local: Path) -> dict[str, Path]:
    """Task -> folder. Raises ConfigError for a name that lies in both places."""
    found: dict[str, Path] = {}
    for place in LOCAL_FOLDERS:
        for folder in sorted((local / place).glob("*")):
            if not folder.is_dir() or folder.name.startswith(".") or folder.name == TRIPLETS:
                continue
            if folder.name in found:
                raise ConfigError(f"{found[folder.name]} and {folder} are two tasks of one name; rename one")
            found[folder.name] = folder
    return found
