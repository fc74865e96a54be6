"""FlexAttention as torch compiles it for a CUDA chip that is not there.

torch traces on the CPU and lowers for the chip, whose properties are made up: what comes out is the program that a
device would run. Its kernels can be compiled by Triton for a footprint. In a process with TRITON_INTERPRET=1 they run
on CPU tensors in Triton's interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import re
import subprocess
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch._inductor.scheduler
import torch.nn.attention.flex_attention as flex
import triton
from torch._dynamo.backends.common import aot_autograd
from torch._guards import detect_fake_mode
from torch._inductor import compile_fx, graph
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.hints import DeviceProperties
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

DEVICE = torch.device("cuda", 0)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Chip(NamedTuple):
    """A CUDA chip.

    Attributes:
        name: a device that has it.
        capability: major and minor.
        shared: bytes of shared memory that a block of threads may have.
    """

    name: str
    capability: tuple[int, int]
    shared: int

    @property
    def number(self) -> int:
        """The capability as one number."""
        return 10 * self.capability[0] + self.capability[1]


CHIPS = {
    chip.number: chip
    for chip in (
        Chip("A100", (8, 0), 163 << 10),
        Chip("L40S", (8, 9), 99 << 10),
        Chip("H100", (9, 0), 227 << 10),
        Chip("B200", (10, 0), 227 << 10),
        Chip("RTX 5090", (12, 0), 99 << 10),
    )
}
"""CUDA C++ Programming Guide, table of compute capabilities."""


class Kernel(NamedTuple):
    """A kernel of a generated program.

    Attributes:
        function: Triton's, or the interpreter's.
        form: ``template`` where the launch names its grid, else ``persistent_reduction``.
        settings: of the compiler.
    """

    function: Any
    form: str
    settings: dict[str, Any]

    @property
    def tiles(self) -> dict[str, int]:
        """Sizes of tiles that a device would tune; templates have theirs in their source."""
        names = self.settings["triton_meta"]["signature"]
        return {name: size for name, size in (("XBLOCK", 64), ("YBLOCK", 1)) if name in names}

    def run(self, *arguments: Any, stream: int) -> None:
        """Run it in the interpreter, as the generated program launches it on a device."""
        if self.form == "template":
            self.function[arguments[-3:]](*arguments[:-3])
            return
        named = dict(zip(self.settings["triton_meta"]["signature"], arguments, strict=False))
        grid = [-(-named[f"{name[0].lower()}numel"] // size) for name, size in self.tiles.items()]
        self.function[tuple(grid)](*arguments, **self.tiles)


class Footprint(NamedTuple):
    """What a kernel takes on a chip.

    Attributes:
        kernel: its name.
        shared: bytes of shared memory a block.
        registers: of a thread.
        stack: bytes a thread that do not fit into registers.
    """

    kernel: str
    shared: int
    registers: int
    stack: int


class Driver:
    """Driver of Triton that names a chip and can launch nothing."""

    def __init__(self, chip: Chip) -> None:
        self.get_current_target = lambda: GPUTarget("cuda", chip.number, 32)
        self.get_current_device = lambda: 0
        self.get_active_torch_device = lambda: DEVICE
        self.get_device_interface = lambda: torch.cuda


class PretendedGpu:
    """Compiler of FlexAttention for a chip.

    Attributes:
        programs: generated so far: forward, backward, forward, ...
    """

    def __init__(self, chip: Chip, folder: Path) -> None:
        """Keep the chip, and a folder for the sources."""
        self.chip = chip
        self.folder = folder
        self.programs: list[str] = []

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a function for the chip; with TRITON_INTERPRET=1 the result takes CPU tensors and runs them."""
        torch._dynamo.reset()
        forward, backward = (self._compiler(is_backward=each) for each in (False, True))
        compiled = torch.compile(function, backend=aot_autograd(fw_compiler=forward, bw_compiler=backward))

        def call(*arguments: Any, **more: Any) -> Any:
            with mock.patch.object(flex, "_validate_device", lambda *tensors: None):  # it wants no gradients on a CPU
                return compiled(*arguments, **more)

        return call

    def generate(self, function: Callable[..., Any], calls: list[tuple[list[Any], dict[str, Any]]]) -> None:
        """Generate the programs for packs of any size, forward and backward, from calls with two sizes."""
        torch._dynamo.reset()
        forward, backward = (self._compiler(is_backward=each) for each in (False, True))
        backends = (_stop, aot_autograd(fw_compiler=forward, bw_compiler=backward))
        with mock.patch.object(flex, "_validate_device", lambda *tensors: None):
            for backend, (arguments, more) in zip(backends, calls, strict=True):
                with contextlib.suppress(_Generated):
                    torch.compile(function, backend=backend)(*arguments, **more)

    def _compiler(self, *, is_backward: bool) -> Callable[..., Any]:
        def lower(module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            moved = _moved(module, inputs)
            with self._there(), contextlib.suppress(_Generated):
                compile_fx.compile_fx_inner(module, moved, is_backward=is_backward)
                raise AssertionError("no program was generated")
            if not triton.knobs.runtime.interpret:
                return _stop
            program = self._load(self.programs[-1], f"program_{len(self.programs)}")
            return lambda *arguments: program.call(list(arguments))

        return lower

    def footprints(self, program: str) -> Iterator[Footprint]:
        """Compile the kernels of a program for the chip."""
        for name, kernel in vars(self._load(program, "compiled")).items():
            if isinstance(kernel, Kernel):
                yield self._footprint(name, kernel)

    def _footprint(self, name: str, kernel: Kernel) -> Footprint:
        meta = kernel.settings["triton_meta"]
        source = ASTSource(kernel.function, meta["signature"], kernel.tiles, meta["configs"][0])
        options = {key: kernel.settings[key] for key in ("num_warps", "num_stages") if key in kernel.settings}
        done = triton.compile(source, target=GPUTarget("cuda", self.chip.number, 32), options=options)
        binary = self.folder / f"{name}.cubin"
        binary.write_bytes(done.asm["cubin"])
        command = [TOOLS / "cuobjdump", "--dump-resource-usage", binary]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        registers, stack = (int(re.search(rf"{what}:(\d+)", said)[1]) for what in ("REG", "STACK"))
        return Footprint(name, done.metadata.shared, registers, stack)

    def _load(self, program: str, name: str) -> Any:
        """Import a generated program, its kernels as :class:`Kernel`."""

        def load_kernel(compiler: AsyncCompile, kernel_name: str, source: str, **more: Any) -> Kernel:
            return getattr(self._module(source, f"{name}_{kernel_name}"), kernel_name)

        forms = {form: _kept(form) for form in ("template", "persistent_reduction")}
        with (
            mock.patch.object(AsyncCompile, "triton", load_kernel),
            mock.patch.object(torch._C, "_cuda_getCurrentRawStream", _nothing, create=True),
            mock.patch.object(triton_helpers, "set_driver_to_gpu", _nothing),
            mock.patch.multiple(triton_heuristics, **forms),
        ):
            loaded = self._module(program, name)
        on_cpu = types.SimpleNamespace(_DeviceGuard=contextlib.nullcontext, set_device=_nothing)
        loaded.torch = _With(torch, cuda=on_cpu)
        loaded.empty_strided_cuda = lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype)
        return loaded

    def _module(self, source: str, name: str) -> Any:
        file = self.folder / f"{name}.py"
        file.write_text(source)
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        """Let torch believe that the chip is there, and stop where it would load a program."""
        set_fake_guard()
        properties = types.SimpleNamespace(
            name=self.chip.name, major=self.chip.capability[0], minor=self.chip.capability[1], warp_size=32,
            multi_processor_count=108, total_memory=80 << 30, regs_per_multiprocessor=65536, gcnArchName="",
            max_threads_per_multi_processor=2048, max_threads_per_block=1024, L2_cache_size=40 << 20,
            shared_memory_per_block_optin=self.chip.shared,
        )  # fmt: skip
        answers = {
            "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0,
            "_exchange_device": 0, "_maybe_exchange_device": 0, "_lazy_init": None, "synchronize": None,
            "set_rng_state": None, "get_rng_state": torch.zeros(1), "is_bf16_supported": True,
            "get_device_capability": self.chip.capability, "get_device_properties": properties,
            "_get_device_properties": properties, "get_device_name": self.chip.name,
        }  # fmt: skip

        def generated(lowering: graph.GraphLowering) -> None:
            self.programs.append(lowering.codegen()[0].value)
            raise _Generated

        with contextlib.ExitStack() as stack:
            for name, answer in answers.items():
                stub = mock.Mock(return_value=answer)
                stack.enter_context(mock.patch.object(torch.cuda, name, stub, create=True))
            for owner, name, value in (
                (torch.version, "cuda", "13.0"),
                (torch._inductor.scheduler, "has_triton", lambda *arguments: True),
                (AsyncCompile, "triton", lambda *arguments, **more: None),
                (graph.GraphLowering, "_compile_to_module", generated),
                (triton.runtime.driver, "_active", Driver(self.chip)),
            ):
                stack.enter_context(mock.patch.object(owner, name, value))
            DeviceProperties.create.cache_clear()
            yield
            DeviceProperties.create.cache_clear()


class _Generated(BaseException):
    """A program has been generated. (No Exception, which torch would wrap.)"""


def _nothing(*arguments: Any) -> int:
    """Do nothing."""
    return 0


def _stop(*arguments: Any) -> Any:
    """Run nothing: there is no chip."""
    raise _Generated


class _With:
    """A module with some of its members replaced."""

    def __init__(self, module: Any, **members: Any) -> None:
        self._module = module
        vars(self).update(members)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _kept(form: str) -> Callable[..., Any]:
    """Replace a decorator of generated kernels, which would load the kernel."""
    return lambda **settings: lambda function: Kernel(function, form, settings)


def _moved(module: torch.fx.GraphModule, inputs: list[Any]) -> list[Any]:
    """Move a traced graph and its inputs, which have no values, to the chip."""
    mode = detect_fake_mode(inputs)

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            with mode:
                return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=DEVICE)
        return type(value)(map(move, value)) if isinstance(value, (tuple, list)) else value

    for part in module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            if "val" in node.meta:
                node.meta["val"] = move(node.meta["val"])
            if node.kwargs.get("device") is not None:
                node.kwargs = {**node.kwargs, "device": DEVICE}
            if node.target is torch.ops.higher_order.flex_attention:  # a CPU's has no sums, without gradients
                node.args = (*node.args[:6], {**node.args[6], "OUTPUT_LOGSUMEXP": True}, *node.args[7:])
        if isinstance(part, torch.fx.GraphModule):
            part.recompile()
    return [move(each) for each in inputs]


_kept_alive: list[Any] = []


def set_fake_guard() -> None:
    """Give tensors without values a CUDA device, in a build of torch that has none.

    torch replaces a guard that counts no device by its own fake one; a build for CPUs has no guard to replace, so one
    is made that answers 0 to everything.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = (ctypes.c_void_p * 2).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    if not registry[1]:
        zero = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)
        table = (ctypes.c_void_p * 64)(*[ctypes.cast(zero, ctypes.c_void_p).value] * 64)
        guard = ctypes.c_void_p(ctypes.addressof(table))
        _kept_alive.extend((zero, table, guard))
        registry[1] = ctypes.addressof(guard)
    torch._C._ensureCUDADeviceGuardSet()
