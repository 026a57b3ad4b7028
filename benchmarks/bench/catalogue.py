"""Every benchmark: its arguments, about how long it takes, the image sets and the peers it needs.

In arguments, {data} is the folder of image sets, {kept} one folder of the benchmark's own that lasts from call to call,
and {peers} the interpreter of an environment with `peers` (pip requirements), which `make bench` makes once.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from shutil import which

FOLDER = Path(__file__).resolve().parent.parent
SETS = re.compile(r"\{data\}/([\w.-]+)")
FASHION = "Debian's package dataset-fashion-mnist"
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
GPU = "a GPU"
HISTORY = "a clone with history"
# scripts of benchmarks/ that are no benchmark: they make projects or pages, or run in a peer's environment
OTHERS = ("console_project", "loaded", "metadata_steps", "ood_peer", "serve_stack_peers", "table")


@dataclass(frozen=True)
class Benchmark:
    """`minutes`: about, on two free cores. `quick`: arguments of a quick pass; None if it has none."""

    name: str
    arguments: str = ""
    minutes: float = 1
    peers: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # beside image sets; `make bench` says them
    quick: str | None = "--quick"

    @property
    def sets(self) -> list[str]:
        """Files of {data} that the arguments name."""
        return SETS.findall(self.arguments)


def _all() -> list[Benchmark]:
    cifar, signs, trashnet, infrared, pacs = (
        f"{{data}}/{name}.parquet"
        for name in ("cifar10n-train", "belgium-signs", "trashnet-256", "infrared-solar", "pacs-128")
    )
    cuts = " ".join(f"{{data}}/cut-dev-{name}.parquet" for name in ("aggre", "synthetic20", "worst"))
    kept, kept_quick = "{kept}", "{kept} --quick"
    four = f"--signs {signs} --trashnet {trashnet} --infrared {infrared} --pacs {pacs}"

    def keeping(name: str, arguments: str, minutes: float, **about) -> Benchmark:
        return Benchmark(name, f"{kept} {arguments}".strip(), minutes, **{"quick": kept_quick} | about)

    return [
        # the whole, and what it costs
        Benchmark("startup", minutes=0.2),
        Benchmark("first_start", minutes=2),
        Benchmark("demo_profile", minutes=5),
        Benchmark("invalidation", minutes=1),
        Benchmark("commands", minutes=25),
        Benchmark("flow", minutes=15),
        Benchmark("loop_vs_scripts", f"{cifar} {kept}", 60, quick=f"{cifar} {kept} --quick"),
        Benchmark("upgrade", minutes=4, needs=(HISTORY,), quick=None),
        # past one machine
        Benchmark("growth", minutes=30),
        keeping("metadata", "", 40),
        Benchmark("ray_scale", minutes=30),
        Benchmark("scale_plan", minutes=2),
        # data in
        Benchmark("ingest_speed", minutes=3),
        Benchmark("incremental", minutes=10, needs=(FASHION,)),
        Benchmark("peak_memory", minutes=4, needs=(FASHION,)),
        Benchmark("odd_images", minutes=4),
        Benchmark("splits", minutes=5),
        keeping("siblings", f"--signs {signs} --others {trashnet} {infrared} {pacs}", 10),
        Benchmark(
            "leaks",
            f"{trashnet} {signs} {{data}}/cifar10h-test.parquet {pacs} {infrared} --kept {kept} --peers {{peers}}",
            10,
            peers=("imagehash", "pyarrow"),
        ),
        # labels
        Benchmark("label_noise", f"--cifar10n {cifar}", 10),
        keeping("label_cut", f"--probabilities {cuts} --cifar10n {cifar}", 15),
        keeping("cleaning", f"{four} --cifar10n {cifar} --splits 7 --seeds 1", 40),
        Benchmark("consensus", f"--cifar10n {cifar} --peer {{peers}}", 4, peers=("crowd-kit",)),
        Benchmark("influence", f"--cifar10n {cifar}", 10),
        keeping("active", f"--cifar10n {cifar} --infrared {infrared} --signs {signs} --trashnet {trashnet}", 60),
        Benchmark("class_merge", f"--data {cifar} --work {kept}", 4),
        Benchmark("label_replay", minutes=3),
        Benchmark("label_console", minutes=3),
        # training
        Benchmark("train_speed", minutes=6),
        Benchmark("two_stage", minutes=5),
        keeping("recipe", four, 210),
        keeping("heads", f"--cifar {cifar} --infrared {infrared} --seeds 1", 6),
        keeping("tuning", f"--signs {signs}", 6),
        keeping(
            "augmentation",
            f"--trashnet {trashnet} --signs {signs} --seeds 1 --sets signs trashnet --only default mixup cutmix",
            60,
        ),
        keeping(
            "long_tail",
            f"--cifar-train {{data}}/cifar_train.parquet --cifar-test {{data}}/cifar_test.parquet "
            f"--infrared {infrared} --trashnet {trashnet}",
            600,
        ),
        keeping("distillation", f"--infrared {infrared} --trashnet {trashnet}", 60),
        keeping("warm_start", f"--infrared {infrared} --trashnet {trashnet}", 60),
        keeping("families", "", 30),
        Benchmark("precision", minutes=2, needs=(GPU,)),
        # what a model says
        Benchmark("calibration", minutes=4, needs=(FASHION,)),
        Benchmark(
            "conformal",
            f"{{data}} {kept} --mapie {{peers}}",
            12,
            peers=("mapie",),
        ),
        Benchmark(
            "calibration_choice",
            f"{{data}} {kept} --probmetrics {{peers}}",
            10,
            peers=("probmetrics",),
            quick=None,
        ),
        Benchmark(
            "ood",
            f"{signs} {trashnet} {infrared} {pacs} --kept {kept} --peer {{peers}} --frozen",
            30,
            peers=("pytorch-ood",),
            quick=f"--kept {kept} --quick",
        ),
        Benchmark("int8", f"--trashnet {trashnet} --belgium {signs}", 15, quick=f"--trashnet {trashnet} --quick"),
        Benchmark("exports", minutes=5),
        # the gate, and versions
        keeping("gate", f"--cifar {{data}}/cut-dev-aggre.parquet --images {pacs}", 40),
        keeping("judge_again", "--seeds 1", 4),
        keeping("biased_queue", "--trials 2000", 15),
        Benchmark("first_model", f"{signs}:pole {trashnet} {infrared} {pacs} --folder {kept}", 90),
        Benchmark("versioning", minutes=15),
        Benchmark("rollback", minutes=3),
        Benchmark("promotions", minutes=3),
        # production
        Benchmark("capture", minutes=1),
        Benchmark("measure_speed", minutes=5),
        Benchmark("drift_alarms", minutes=5, needs=(FASHION,)),
        Benchmark("drift_power", f"--pacs {pacs}", 6, needs=(FASHION,)),
        keeping("live_accuracy", "", 6),
        Benchmark("canary", minutes=5),
        Benchmark("serve_parity", minutes=3),
        Benchmark("serve_swap", minutes=4),
        Benchmark("serve_overload", minutes=3),
        Benchmark(
            "serve_load",
            "--peers {peers}",
            5,
            peers=("bentoml", "fastapi", "uvicorn[standard]", "onnxruntime", "pillow"),
        ),
        Benchmark(
            "serve_stack",
            "{peers}",
            5,
            peers=("litserve", "fastapi", "uvicorn", "onnxruntime", "pillow", "numpy"),
            quick="- --quick",
        ),
        # the console, and what must not break
        Benchmark("console", minutes=10),
        Benchmark("console_tour", "--quick", 3),
        Benchmark("injections", minutes=10),
        Benchmark("foreign_requests", minutes=5),
        Benchmark("flips", f"--keep {kept}/tries", 60),
        Benchmark("kills", minutes=40),
        keeping("random_kills", "", 30),
        keeping("s3_schedules", "", 60),
    ]


BENCHMARKS = _all()


def absent(need: str) -> bool:
    """Whether one of a benchmark's `needs` is known to be missing on this machine."""
    if need == FASHION:
        return not FASHION_FOLDER.is_dir()
    return need == GPU and which("nvidia-smi") is None and which("rocm-smi") is None


def not_listed() -> list[str]:
    """Scripts of benchmarks/ that can be run and are neither in BENCHMARKS nor in OTHERS."""
    known = {one.name for one in BENCHMARKS} | set(OTHERS)
    return [file.stem for file in sorted(FOLDER.glob("*.py")) if file.stem not in known and _runs(file)]


def _runs(file: Path) -> bool:
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in ast.parse(file.read_text(encoding="utf-8")).body
    )


def title(name: str) -> str:
    """The first line of a benchmark's docstring: the question that it answers."""
    said = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0]
