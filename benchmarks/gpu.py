"""Training and decoding on one NVIDIA GPU: ours on JAX and PyTorch beside torch.nn.Transformer and a step written in JAX by hand.

    python benchmarks/gpu.py --collect wheels     # where there is a network: fetches what a machine with torch and jax lacks
    python benchmarks/gpu.py --wheels wheels      # on the GPU: installs from that folder alone, for this run, and measures

The peers' dropout is as they come: torch.nn.Transformer drops attention weights too, the step by hand does not. Ours is
measured with and without. A contender that cannot start is left out, and said so.
"""

# Nothing but the standard library until missing packages are installed: this file starts where there is no Keras and no click.
import argparse
import contextlib
import functools
import importlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

# Package: module. What the project needs beside a backend and NumPy, and what those packages need.
NEEDED = {
    "keras": "keras",
    "absl-py": "absl",
    "namex": "namex",
    "h5py": "h5py",
    "optree": "optree",
    "ml_dtypes": "ml_dtypes",
    "typing_extensions": "typing_extensions",
    "packaging": "packaging",
    "rich": "rich",
    "markdown-it-py": "markdown_it",
    "mdurl": "mdurl",
    "Pygments": "pygments",
    "sentencepiece": "sentencepiece",
    "sacrebleu": "sacrebleu",
    "portalocker": "portalocker",
    "regex": "regex",
    "tabulate": "tabulate",
    "colorama": "colorama",
    "lxml": "lxml",
    "click": "click",
    "PyYAML": "yaml",
    "tensorboardX": "tensorboardX",
    "protobuf": "google.protobuf",
}
ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = {"float32": "float32", "mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}
SEARCHES = {"greedy": 1, "beam 4": 4}

# What each machine is given: sizes of train.py or below, rows x target length, rows a search, source lengths of a search.
SCALES = {
    "gpu": {
        "sizes": ["small", "base"],
        "shapes": ["64x24", "64x128", "256x24", "256x128"],
        "precisions": list(PRECISIONS),
        "batches": [1, 32, 256],
        "lengths": [24, 64],
        "vocabulary": 8000,
        "product": 8192,
        "rounds": 5,
        "seconds": 1.0,
    },
    "tiny": {
        "sizes": ["tiny"],
        "shapes": ["4x6"],
        "precisions": ["mixed_bfloat16"],  # the one that all contenders know
        "batches": [1, 2],
        "lengths": [3, 6],
        "vocabulary": 100,
        "product": 128,
        "rounds": 1,
        "seconds": 0.01,
    },
}
TINY_SIZE = {"num_layers": 1, "d_model": 16, "num_heads": 2, "d_ff": 32}

# Name: (function below, KERAS_BACKEND, precisions, arguments).
TRAINING = {
    "ours, JAX": ("ours", "jax", PRECISIONS, {}),
    "ours, PyTorch": ("ours", "torch", PRECISIONS, {}),
    "ours, JAX, attention keeps all": ("ours", "jax", PRECISIONS, {"attention_dropout": 0.0}),
    "ours, PyTorch, attention keeps all": ("ours", "torch", PRECISIONS, {"attention_dropout": 0.0}),
    "JAX by hand": ("jax_by_hand", "jax", ["float32", "mixed_bfloat16"], {}),
    "torch.nn.Transformer": ("torch_transformer", "torch", ["float32", "mixed_bfloat16"], {}),
    "torch.nn.Transformer, compiled": ("torch_transformer", "torch", ["mixed_bfloat16"], {"compiled": True}),
    "matrix products, JAX": ("jax_products", "jax", PRECISIONS, {}),
    "matrix products, PyTorch": ("torch_products", "torch", PRECISIONS, {}),
}
RATIOS = [
    ("ours, JAX", "JAX by hand"),
    ("ours, JAX, attention keeps all", "JAX by hand"),
    ("ours, PyTorch", "torch.nn.Transformer"),
    ("ours, PyTorch", "torch.nn.Transformer, compiled"),
    ("ours, PyTorch, attention keeps all", "torch.nn.Transformer, compiled"),
    ("ours, JAX", "torch.nn.Transformer, compiled"),
]


# Wheels


def missing_packages():
    """Those of NEEDED whose module is not to be found."""

    def found(module):
        try:
            return importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # the package around it is missing
            return False

    return [package for package, module in NEEDED.items() if not found(module)]


def collect(folder, python):
    """Downloads the wheels of all of NEEDED, in the versions of constraints.txt."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", folder]
    if python:  # another interpreter than this one: pip then wants to be told all about it
        command += ["--python-version", python, "--implementation", "cp"]
        for glibc in ("_2_28", "_2_27", "_2_26", "_2_24", "_2_17", "2014", "2010", "1"):
            command += ["--platform", f"manylinux{glibc}_{platform.machine()}"]
    subprocess.run([*command, *(f"{package}=={pinned[package]}" for package in NEEDED)], check=True)


def install(packages, wheels, folder):
    """Puts ``packages`` into ``folder`` from the wheels alone, and the folder on the path of this process and its children.

    Without dependencies: torch, jax and NumPy stay those of the machine. At the path's end in this process, since what is
    there already comes first; the children's PYTHONPATH holds nothing that was there.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run([*command, "--find-links", wheels, "--target", folder, *packages], check=True)
    sys.path.append(folder)
    importlib.invalidate_caches()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), folder]))


# Contenders: each prepares ``run(steps)``, which ends when all is computed. They run in children.


def ours(case):
    """contenders.ours, trained by ``fit``, which on a GPU does not wait for each step as train_on_batch does."""
    import keras

    class Same(keras.utils.PyDataset):
        """One batch, again and again."""

        def __init__(self, batch, steps):
            super().__init__()
            self.batch, self.steps = batch, steps

        def __len__(self):
            return self.steps

        def __getitem__(self, index):
            return self.batch

    def steps_of(model, inputs, labels):
        def run(steps):
            model.fit(Same((inputs, labels), steps), shuffle=False, verbose=0)
            wait([variable.value for variable in model.variables])

        return run

    contenders = contenders_for(case)
    contenders._keras_steps = steps_of
    more = {} if case["attention_dropout"] is None else {"attention_dropout": case["attention_dropout"]}
    return contenders.ours(case["size"] | more, case["dropout"], case["precision"])


def torch_transformer(case):
    """contenders.torch_transformer on the device, with the fused Adam a GPU has, and compiled if the case says so."""
    import torch

    contenders = contenders_for(case)
    device = case["device"]

    def steps_of(model, logits, precision, *_):
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-4, betas=(0.9, 0.98), eps=1e-9, fused=device == "cuda")
        source, target, labels = (torch.tensor(part, dtype=torch.long) for part in contenders.batch())

        def loss():
            with torch.autocast(device, torch.bfloat16, enabled=precision == "mixed_bfloat16"):
                out = logits(model, source, target).reshape(-1, contenders.VOCABULARY)
                return torch.nn.functional.cross_entropy(out, labels.reshape(-1), label_smoothing=contenders.SMOOTHING)

        if case["compiled"]:
            loss = torch.compile(loss, mode=case["compile_mode"])

        def run(steps):
            for _ in range(steps):
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()
            wait(None)

        return run

    contenders._torch_steps = steps_of
    torch.manual_seed(0)
    with torch.device(device):
        return contenders.torch_transformer(case["size"], case["dropout"], case["precision"])


def jax_by_hand(case):
    """A plain JAX step as contenders.jax_by_hand, in either precision, with JAX's own attention: cuDNN's where it can be.

    Weights, normalisation and loss are float32. Dropout bits by XLA's generator, which is the faster one on a GPU.
    """
    import jax
    import jax.numpy as jnp

    contenders = contenders_for(case)
    width, heads, inner, layers = (case["size"][name] for name in ("d_model", "num_heads", "d_ff", "num_layers"))
    rows, length, dropout, smoothing = case["rows"], case["length"], case["dropout"], contenders.SMOOTHING
    compute = jnp.dtype(PRECISIONS[case["precision"]])
    kernel = "cudnn" if case["device"] == "cuda" and compute != jnp.float32 else "xla"
    keys = iter(jax.random.split(jax.random.key(0), 200))
    xavier = jax.nn.initializers.glorot_uniform()

    def linear(inputs, outputs):
        return {"w": xavier(next(keys), (inputs, outputs)), "b": jnp.zeros(outputs)}

    def layer(cross):
        blocks = {"qkv": linear(width, 3 * width), "o": linear(width, width)}
        if cross:
            blocks |= {"q": linear(width, width), "kv": linear(width, 2 * width), "o2": linear(width, width)}
        norms = {name: {"g": jnp.ones(width), "b": jnp.zeros(width)} for name in ("n1", "n2", "n3")}
        return blocks | norms | {"f1": linear(width, inner), "f2": linear(inner, width)}

    weights = {
        "table": jax.random.normal(next(keys), (contenders.VOCABULARY, width)) * width**-0.5,
        "encoder": [layer(cross=False) for _ in range(layers)],
        "decoder": [layer(cross=True) for _ in range(layers)],
    }
    place = jnp.arange(length)[:, None] / 10000 ** (jnp.arange(0, width, 2) / width)
    positions = jnp.concatenate([jnp.sin(place), jnp.cos(place)], axis=-1)

    def dense(p, x):
        return x @ p["w"].astype(compute) + p["b"].astype(compute)

    def normalize(p, x):
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        return (x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * p["g"] + p["b"]).astype(compute)

    def attend(q, k, v, causal=False):
        q, k, v = (x.reshape(rows, length, heads, width // heads) for x in (q, k, v))
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=kernel)
        return attended.reshape(rows * length, width)

    def loss(weights, key, source, target, labels):
        drops = iter(jax.random.split(key, 10 * layers + 2))

        def drop(x):
            kept = jax.random.bernoulli(next(drops), 1 - dropout, x.shape) if dropout else True
            return jnp.where(kept, x / (1 - dropout), 0).astype(compute)

        def embed(ids):
            return drop((weights["table"][ids] * width**0.5 + positions).reshape(-1, width).astype(compute))

        def self_attention(p, x, causal=False):
            attended = attend(*jnp.split(dense(p["qkv"], x), 3, -1), causal)
            return normalize(p["n1"], x + drop(dense(p["o"], attended)))

        def feed_forward(p, x):
            return normalize(p["n3"], x + drop(dense(p["f2"], jax.nn.relu(dense(p["f1"], x)))))

        encoded = embed(source)
        for p in weights["encoder"]:
            encoded = feed_forward(p, self_attention(p, encoded))
        decoded = embed(target)
        for p in weights["decoder"]:
            decoded = self_attention(p, decoded, causal=True)
            crossed = attend(dense(p["q"], decoded), *jnp.split(dense(p["kv"], encoded), 2, -1))
            decoded = feed_forward(p, normalize(p["n2"], decoded + drop(dense(p["o2"], crossed))))
        logits = (decoded @ weights["table"].T.astype(compute)).astype(jnp.float32)
        score = jnp.take_along_axis(logits, labels.reshape(-1, 1), axis=-1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - (1 - smoothing) * score - smoothing * logits.mean(-1))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, key, *ids):
        weights, first, second, count = state
        gradients = jax.grad(loss)(weights, key, *ids)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.98 * v + 0.02 * g * g, second, gradients)
        rate = 1e-4 * jnp.sqrt(1 - 0.98 ** (count + 1)) / (1 - 0.9 ** (count + 1))
        weights = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-9), weights, first, second)
        return weights, first, second, count + 1

    state = (weights, *(jax.tree.map(jnp.zeros_like, weights) for _ in range(2)), jnp.zeros(()))
    ids = [jnp.asarray(part) for part in contenders.batch()]
    done = 0

    def run(steps):
        nonlocal state, done
        for _ in range(steps):
            state = step(state, jax.random.key(done, impl="rbg"), *ids)
            done += 1
        wait(state)

    return run


def jax_products(case):
    """Products of square matrices of normal numbers: on equal ones a GPU draws less power and runs faster than it ever will."""
    import jax

    shape, dtype = (case["product"], case["product"]), PRECISIONS[case["precision"]]
    a, b = (jax.random.normal(jax.random.key(seed), shape).astype(dtype) for seed in range(2))
    product = jax.jit(lambda a, b: a @ b)

    def run(steps):
        for _ in range(steps):
            out = product(a, b)
        wait(out)

    return run


def torch_products(case):
    """As jax_products."""
    import torch

    dtype = getattr(torch, PRECISIONS[case["precision"]])
    generator = torch.Generator(case["device"]).manual_seed(0)
    shape = (2, case["product"], case["product"])
    a, b = torch.randn(shape, device=case["device"], generator=generator).to(dtype)

    def run(steps):
        for _ in range(steps):
            torch.matmul(a, b)
        wait(None)

    return run


def decoding(case):
    """Searches over sources of random lengths: {"greedy, batch 1": a function that searches and returns its rows}.

    The model is untrained, so that nearly all sentences run into their limit and the work does not depend on luck.
    """
    import keras
    import numpy as np

    import keras_transformer as kt

    keras.mixed_precision.set_global_policy(case["precision"])
    model = kt.Transformer(case["vocabulary"], dropout=0.0, norm="post", seed=0, **case["size"])
    shortest, longest = case["lengths"]
    generator = np.random.default_rng(0)
    sources = generator.integers(4, case["vocabulary"], (max(case["batches"]), longest), dtype="int32")
    lengths = generator.integers(shortest, longest, (len(sources), 1), endpoint=True)
    lengths[0] = longest
    columns = np.arange(longest)
    sources = np.where(columns == lengths - 1, model.eos_id, np.where(columns < lengths, sources, model.pad_id))

    def search(width, rows):
        if width == 1:
            made = kt.decoding.GreedySearch(model, max_length=longest)
        else:
            made = kt.decoding.BeamSearch(model, width, max_length=longest)
        return lambda: len(made(sources[:rows])[0])  # its results are NumPy's, so they have been awaited

    return {
        f"{name}, batch {rows}": search(width, rows) for name, width in SEARCHES.items() for rows in case["batches"]
    }


def contenders_for(case):
    """contenders.py with the rows, length and vocabulary of the case."""
    import contenders

    contenders.ROWS, contenders.LENGTH, contenders.VOCABULARY = case["rows"], case["length"], case["vocabulary"]
    return contenders


# The child's side


def wait(values):
    """Until the device has computed all; JAX waits for ``values``."""
    if "torch" in sys.modules and (torch := sys.modules["torch"]).cuda.is_initialized():
        torch.cuda.synchronize()
    if "jax" in sys.modules and os.environ["KERAS_BACKEND"] == "jax":
        sys.modules["jax"].block_until_ready(values)


def prepare_device(case):
    """The same float32 products in both libraries, no silent fall-back to the CPU; returns a function that describes the device."""
    on_gpu = case["device"] == "cuda"
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", {"tf32": "tensorfloat32", "ieee": "float32"}[case["float32"]])
        device = jax.devices("cuda" if on_gpu else "cpu")[0]

        def describe():
            peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
            return {"device": device.device_kind, "device_mb": peak / 1e6}

    else:
        import torch

        if on_gpu and not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no GPU.")
        torch.set_float32_matmul_precision({"tf32": "high", "ieee": "highest"}[case["float32"]])

        def describe():
            name = torch.cuda.get_device_name() if on_gpu else "cpu"
            return {"device": name, "device_mb": torch.cuda.max_memory_allocated() / 1e6 if on_gpu else 0.0}

    return describe


@contextlib.contextmanager
def attention_kernels():
    """Lists the attention kernels that are used while it is open: by name on PyTorch; on JAX by what is asked for in a trace."""
    used = set()
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        attention = jax.nn.dot_product_attention

        def noted(*arguments, implementation=None, **more):
            attended = attention(*arguments, implementation=implementation, **more)
            used.add(implementation or "xla")  # after the call: one that raised was not used
            return attended

        jax.nn.dot_product_attention = noted
        try:
            yield used
        finally:
            jax.nn.dot_product_attention = attention
    else:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            yield used
        names = (re.fullmatch(r"aten::_scaled_dot_product_(\w+)", event.key) for event in profiler.key_averages())
        used |= {
            match[1].removeprefix("attention_").removesuffix("_attention")
            for match in names
            if match and "backward" not in match[1]
        }


def child(case):
    from harness import serve

    warnings.simplefilter("ignore")
    describe = prepare_device(case)
    if case["function"] == "decoding":
        return serve(decoding_burst(decoding(case), case["seconds"], describe))
    run = globals()[case["function"]](case)
    if os.environ["KERAS_BACKEND"] == "torch":
        run(2)  # compiles, outside the profiler
    with attention_kernels() as kernels:
        run(2)  # traces and compiles
    begin = time.perf_counter()
    run(3)
    steps = max(1, round(3 * case["seconds"] / (time.perf_counter() - begin)))
    work = steps * (2 * case["product"] ** 3 if "products" in case["function"] else case["rows"] * case["length"])
    key = "flops" if "products" in case["function"] else "tokens_per_second"

    def burst():
        begin = time.perf_counter()
        run(steps)
        return {key: work / (time.perf_counter() - begin), "kernels": sorted(kernels), **describe()}

    return serve(burst)


def decoding_burst(searches, seconds, describe):
    for search in searches.values():
        search()  # traces and compiles

    def burst():
        speeds = {}
        for name, search in searches.items():
            rows, begin = 0, time.perf_counter()
            while rows == 0 or time.perf_counter() - begin < seconds:
                rows += search()
            speeds[name] = rows / (time.perf_counter() - begin)
        return speeds | describe()

    return burst


# The parent's side


def environment(backend, device, caches):
    """Variables of a child; what JAX and PyTorch compile is kept for the run."""
    gpu = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_PLATFORMS": "cuda"}  # contenders live side by side
    cpu = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}  # to see that all works
    return {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "JAX_COMPILATION_CACHE_DIR": f"{caches}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/torch",
    } | (gpu if device == "cuda" else cpu)


def compile_at_once(commands):
    """Starts all contenders together without asking them for work, so that what they compile is there when each is measured."""
    started = [
        subprocess.Popen(
            command,
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command, env in commands.values()
    ]
    for process in started:
        process.wait()


def measured(commands, options):
    from harness import measure

    if options.device == "cuda":
        compile_at_once(commands)
    try:
        return measure(commands, options.rounds)
    except RuntimeError as error:  # one ended in the middle, out of memory perhaps: go on with the next table
        print(f"given up: {error}", flush=True)
        return {}


def command_of(case):
    return [sys.executable, __file__, "--child", json.dumps(case)]


def wanted(name, options):
    return any(word.strip() in name for word in options.only.split(","))


def train_group(size, shape, precision, options, common, caches):
    """One table: all contenders of one size, batch shape and precision."""
    rows, length = map(int, shape.split("x"))
    commands = {}
    for name, (function, backend, precisions, arguments) in TRAINING.items():
        if precision in precisions and (wanted(name, options) or name.startswith("matrix")):
            if importlib.util.find_spec(backend) is None:
                continue
            case = {"attention_dropout": None, "compiled": False, **common, **arguments, "function": function}
            case |= {"size": sizes()[size], "rows": rows, "length": length, "precision": precision}
            commands[name] = command_of(case), environment(backend, options.device, caches)
    results = measured(commands, options)
    if results:
        import train

        train.ROWS, train.LENGTH, train.VOCABULARY = rows, length, common["vocabulary"]
        flops_a_token = train.step_flops(**sizes()[size]) / (rows * length)
        print_training(f"size {size}, {shape}, {precision}", results, flops_a_token)
    return results


def print_training(title, results, flops_a_token):
    from harness import median, spread

    products = {name: bursts for name, bursts in results.items() if name.startswith("matrix")}
    rates = {name.split(", ")[1]: median(bursts, "flops") for name, bursts in products.items()}
    best = max(rates.values(), default=float("nan"))
    shown = ", ".join(f"{name} {rate / 1e12:.4g}" for name, rate in rates.items())
    print(f"\nTraining, {title}; matrix products at {shown} TFLOP/s; MFU against the faster")
    print(f"{'':36}{'tokens/s':>10} {'spread':>7} {'MFU':>6} {'device MB':>9}  attention kernel")
    speeds = {}
    for name, bursts in results.items():
        if name in products:
            continue
        speed = speeds[name] = median(bursts, "tokens_per_second")
        print(
            f"{name:36}{speed:10.0f} {spread(bursts, 'tokens_per_second'):7.1%} {speed * flops_a_token / best:6.1%} "
            f"{median(bursts, 'device_mb'):9.0f}  {', '.join(bursts[0]['kernels']) or 'none'}"
        )
    for name, peer in RATIOS:
        if name in speeds and peer in speeds:
            print(f"{speeds[name] / speeds[peer]:5.2f}  {name} / {peer}")
    sys.stdout.flush()


def decode_group(size, options, common, caches):
    """One table: both backends in each precision."""
    commands = {}
    for precision in options.precisions:
        for name, backend in (("ours, JAX", "jax"), ("ours, PyTorch", "torch")):
            if wanted(name, options) and importlib.util.find_spec(backend) is not None:
                case = common | {"function": "decoding", "size": sizes()[size], "precision": precision}
                title = f"{name}, {PRECISIONS[precision]}"
                commands[title] = command_of(case), environment(backend, options.device, caches)
    results = measured(commands, options)
    if results:
        from harness import median

        columns = [f"{search}, batch {rows}" for search in SEARCHES for rows in common["batches"]]
        shortest, longest = common["lengths"]
        print(f"\nDecoding, size {size}, sources of {shortest} to {longest} tokens, sentences a second")
        print(f"{'':28}" + "".join(f"{column:>18}" for column in columns) + f"{'device MB':>11}")
        for name, bursts in results.items():
            speeds = "".join(f"{median(bursts, column):18.1f}" for column in columns)
            print(f"{name:28}{speeds}{median(bursts, 'device_mb'):11.0f}", flush=True)
    return results


def sizes():
    from train import SIZES

    return {**SIZES, "tiny": TINY_SIZE}


def arguments(scale):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = {"type": lambda text: [word.strip() for word in text.split(",")]}
    parser.add_argument("--collect", metavar="FOLDER", help="only download the wheels into FOLDER")
    parser.add_argument("--python", help="with --collect: the GPU machine's Python, such as 3.12, if not this one's")
    parser.add_argument("--wheels", metavar="FOLDER", help="install missing packages from FOLDER, for this run")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that all works")
    parser.add_argument("--tables", default=["training", "decoding"], **words)
    parser.add_argument("--sizes", default=scale["sizes"], help="of train.py", **words)
    parser.add_argument("--shapes", default=scale["shapes"], help="rows x length of training", **words)
    parser.add_argument("--precisions", default=scale["precisions"], **words)
    parser.add_argument("--float32", choices=["tf32", "ieee"], default="tf32", help="float32 products, in all alike")
    parser.add_argument("--compile-mode", default="default", help="of torch.compile")
    parser.add_argument("--only", default="", help="only contenders whose name has one of these words")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=scale["rounds"])
    parser.add_argument("--seconds", type=float, default=scale["seconds"], help="length of a burst")
    parser.add_argument("--json", help="where to write every measurement")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    scale = SCALES["tiny" if "--tiny" in sys.argv else "gpu"]
    options = arguments(scale)
    if options.child:
        return child(options.child)
    if options.collect:
        return collect(options.collect, options.python)
    missing = missing_packages()
    if missing and not options.wheels:
        sys.exit(f"Missing: {', '.join(missing)}. Collect them with --collect FOLDER and give that folder as --wheels.")
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as folder:
        if missing:
            install(missing, options.wheels, f"{folder}/packages")
        return run_tables(scale, options, f"{folder}/compiled")


def run_tables(scale, options, caches):
    from harness import machine, write_json

    common = {"device": options.device, "dropout": options.dropout, "seconds": options.seconds}
    common |= {"float32": options.float32, "compile_mode": options.compile_mode}
    common |= {name: scale[name] for name in ("vocabulary", "product", "batches", "lengths")}
    groups = {}
    if "training" in options.tables:
        for size in options.sizes:
            for shape in options.shapes:
                for precision in options.precisions:
                    make = functools.partial(train_group, size, shape, precision)
                    groups[f"training, {size}, {shape}, {precision}"] = make
    if "decoding" in options.tables:
        for size in options.sizes:
            groups[f"decoding, {size}"] = functools.partial(decode_group, size)
    about = machine()
    print(f"{about['processor']}, {about['threads']} threads, {about['date']}, {about['versions']}")
    print(
        f"dropout {options.dropout}, {options.rounds} rounds of {options.seconds} s, float32 products {options.float32}"
    )
    results = {}
    for name, make in groups.items():
        results[name] = make(options, common, caches)
        devices = {burst["device"] for bursts in results[name].values() for burst in bursts}
        print(f"on {', '.join(sorted(devices)) or 'nothing'}", flush=True)
        if options.json:  # after each table, so that a run cut short leaves what it has
            write_json(options.json, "gpu", results, options=vars(options))
    if not any(results.values()):
        sys.exit("Nothing could be measured.")


if __name__ == "__main__":
    main()
