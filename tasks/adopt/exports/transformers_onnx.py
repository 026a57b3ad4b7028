"""Export an image classifier of transformers to ONNX, in a child process with bounds.

python -m tasks.adopt.exports.transformers_onnx FOLDER FILE SIZE       (`to_onnx` starts it)
"""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tasks.adopt.exports.hugging_face import CONFIG
from tasks.common.errors import EvergreenError

MEMORY, FACTOR = 6 << 30, 8  # bytes that it may add, and more for larger weights
SECONDS = 600  # CPU time
MISSING = "missing"


def to_onnx(weights: Path, file: Path, size: int) -> None:
    """Write the model in the folder of `weights` as ONNX to `file`, for input of `size` pixels a side."""
    command = [sys.executable, "-m", "tasks.adopt.exports.transformers_onnx"]
    command += [str(weights.resolve().parent), str(file.resolve()), str(size)]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",  # everything is in the folder
    }
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        raise EvergreenError(f"{weights} took longer than {2 * SECONDS} s to become ONNX: export it yourself") from None
    if done.returncode == 0 and file.is_file():
        return
    reason = (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["it was ended"])[-1][:500]
    if reason == MISSING:
        raise EvergreenError(
            f"{weights} needs transformers to be read: `pip install 'evergreen[transformers]'`, or export it to ONNX "
            "where it was made (`optimum-cli export onnx`)"
        )
    raise EvergreenError(f"{weights} cannot be exported to ONNX: {reason}. Check it against {CONFIG} beside it")


def main(folder: Path, file: Path, size: int) -> None:
    """Export; the last line of standard output says what is wrong."""
    import resource

    from tasks.backbones.torchvision_ops import make_timm_importable

    make_timm_importable()  # transformers imports torchvision, too
    try:
        from transformers import AutoModelForImageClassification
    except ImportError:
        print(MISSING)
        raise SystemExit(1) from None
    with suppress(OSError, ValueError):  # a system without this count: only time is bounded here
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        more = MEMORY + FACTOR * sum(one.stat().st_size for one in folder.glob("*.safetensors"))
        resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        found, report = AutoModelForImageClassification.from_pretrained(
            folder, **options, attn_implementation="eager", output_loading_info=True
        )
        if absent := sorted(report["missing_keys"]):
            raise ValueError(f"weights for {', '.join(absent[:5])} are missing")
        _export(found.float().eval(), file, size)
    except Exception as error:  # of transformers, safetensors and torch, each of its own type
        print(" ".join(str(error).split())[:500] or type(error).__name__)
        raise SystemExit(1) from None


def _export(model, file: Path, size: int) -> None:
    import torch

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values):
            return self.model(pixel_values=pixel_values, return_dict=False)[0]

    with torch.inference_mode():
        torch.onnx.export(
            Logits().eval(),
            (torch.zeros(2, 3, size, size),),
            str(file),
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
