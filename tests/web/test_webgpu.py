"""Bundles of target `web` on WebGPU: Chromium with SwiftShader, which computes on the CPU and has no float16."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvl_export import export
from qvl_runtime.model import load
from tests.chromium import Browser, Tab
from tests.conftest import REFERENCE, Bundles
from tests.oracles.families import find
from tests.oracles.tiny import ATTENTION
from tests.plans import export_plan
from tests.web.conftest import PACKAGE
from tests.web.test_web import asked, heldout, image, text

pytestmark = pytest.mark.slow

SWIFTSHADER = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
FAMILIES = [family for family in ATTENTION if not find(family).experts]
LONGEST = 24
MODULES = "/node_modules/"
IMPORTS = {
    "@huggingface/jinja": "@huggingface/jinja/dist/index.js",
    "@huggingface/tokenizers": "@huggingface/tokenizers/dist/tokenizers.mjs",
    "@noble/hashes/sha2.js": "@noble/hashes/sha2.js",
    "onnxruntime-web/wasm": "onnxruntime-web/dist/ort.wasm.min.mjs",
    "onnxruntime-web/webgpu": "onnxruntime-web/dist/ort.webgpu.min.mjs",
}
PAGE = f"""<!doctype html><link rel="icon" href="data:,">
<script type="importmap">{json.dumps({"imports": {name: MODULES + path for name, path in IMPORTS.items()}})}</script>
<script type="module">
import {{ load }} from "/dist/index.js";
/** Loads a bundle in a worker and calls `use` with the model and a message about page.png; errors are returned. */
globalThis.using = async (bundle, options, prompt, use) => {{
  try {{
    const model = await load("/bundles/" + bundle, {{ threads: 1, keep: false, ...options }});
    const image = await (await fetch("/page.png")).blob();
    const content = [{{ type: "image", image }}, {{ type: "text", text: prompt }}];
    const result = await use(model, [{{ role: "user", content }}]);
    await model.close();
    return result;
  }} catch (error) {{
    return `${{error.name}}: ${{error.message}}`;
  }}
}};
const lines = [];
/** Opens graphs as the runtime does, and returns what ONNX Runtime logs about them. */
globalThis.logOf = async (path) => {{
  lines.length = 0;
  console.log = console.warn = console.error = (line) => lines.push(line); // ONNX Runtime keeps the first that it sees
  const ort = await import("onnxruntime-web/webgpu");
  ort.env.logLevel = "verbose";
  const read = async (file) => new Uint8Array(await (await fetch(`/bundles/${{path}}/${{file}}`)).arrayBuffer());
  for (const name of ["vision", "llm"]) {{
    const externalData = [{{ path: name + ".onnx.data", data: await read(name + ".onnx.data") }}];
    const options = {{ executionProviders: ["webgpu"], logSeverityLevel: 0, externalData }};
    await (await ort.InferenceSession.create(await read(name + ".onnx"), options)).release();
  }}
  return lines.join("\\n");
}};
document.title = "ready";
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """Serves the page at `/`, an image, the package with its dependencies, and bundles by their names."""

    def __init__(self, bundles: dict[str, Path], page: Path, *args: Any) -> None:
        self._bundles, self._page = bundles, page
        super().__init__(*args, directory=str(PACKAGE))

    def do_GET(self) -> None:
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def translate_path(self, path: str) -> str:
        if path == "/page.png":
            return str(self._page)
        if found := re.fullmatch(r"/bundles/([^/]+)/(.+)", path):
            return str(self._bundles[found[1]] / found[2])
        return super().translate_path(path)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def bundles() -> dict[str, Path]:
    """Bundles that the server has, by names."""
    return {}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A held-out page and its prompt."""
    ((_, file, prompt),) = heldout(tmp_path_factory.mktemp("page"), "ocr", 0, 1)
    return file, prompt


@pytest.fixture(scope="module")
def address(npm: str, run: Callable[..., str], bundles: dict[str, Path], page: tuple[Path, str]) -> Iterator[str]:
    run(npm, "run", "build")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, bundles, page[0]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def opened(browser: Browser, address: str) -> Tab:
    tab = browser.tab(address)
    tab.wait("document.title === 'ready'")
    return tab


@pytest.fixture(scope="module")
def tab(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A page whose browser has an adapter."""
    with Browser(tmp_path_factory.mktemp("gpu"), *SWIFTSHADER) as browser:
        found = opened(browser, address)
        if not found.value("navigator.gpu.requestAdapter().then(Boolean)"):
            pytest.skip("NO WEBGPU ADAPTER HERE: no bundle of target web was run on WebGPU")
        yield found


def using(tab: Tab, bundle: str, options: str, prompt: str, use: str) -> Any:
    return tab.value(f"using({bundle!r}, {options}, {json.dumps(prompt)}, {use})")


@pytest.fixture(scope="module", params=["fp32", "int4"])
def reference(
    request: pytest.FixtureRequest, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The name of a bundle of the reference checkpoint, whose floats are float32."""
    name, out = request.param, tmp_path_factory.mktemp("reference") / request.param
    quantized = {"vision_precision": "int8", "llm_precision": "int4", "samples": 8}
    export(export_plan(REFERENCE, out, precision="fp32", target="web", **(quantized if name == "int4" else {})))
    bundles[name] = out
    return str(name)


def test_the_answer_is_that_of_python(
    tab: Tab, reference: str, bundles: dict[str, Path], page: tuple[Path, str]
) -> None:
    file, prompt = page
    messages, _ = asked(image(file), text(prompt))
    with load(bundles[reference], threads=1) as model:
        stream = model.stream(messages, max_new_tokens=LONGEST)
        written = "".join(stream)
    use = f"""async (model, messages) => {{
        const stream = model.stream(messages, {{ max_new_tokens: {LONGEST} }});
        return [await stream.text(), stream.run.tokens];
    }}"""
    assert using(tab, reference, '{ backend: "webgpu" }', prompt, use) == [written, stream.run.tokens]


def test_the_cache_grows_and_is_reused(
    tab: Tab, bundle: Bundles, bundles: dict[str, Path], page: tuple[Path, str]
) -> None:
    """The second prompt begins with the first, and needs a larger cache than that was made for."""
    bundles["tiny"] = bundle("qwen2_5_vl", "small", "fp32", "web")
    use = """async (model, [message]) => {
        const [image, question] = message.content;
        const ask = async (count) => {
            const content = [...Array(count).fill(image), question];
            const stream = model.stream([{ role: "user", content }], { max_new_tokens: 2, ignore_eos: true });
            await stream.text();
            return stream.run;
        };
        const [first, second] = [await ask(9), await ask(18)];
        await model.clear();
        const again = await ask(18);
        return [first.counts.prompt, second.counts, second.tokens, again.counts.reused, again.tokens];
    }"""
    first, second, tokens, none, expected = using(tab, "tiny", '{ backend: "webgpu" }', page[1], use)
    assert first < 512 < second["prompt"]
    assert second["reused"] > first / 2
    assert none == 0
    assert tokens == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_families_are_those_of_python(
    tab: Tab, bundle: Bundles, bundles: dict[str, Path], family: str, page: tuple[Path, str]
) -> None:
    bundles[family] = bundle(family, "small", "fp32", "web")
    file, prompt = page
    answer = [5, 6, 7, 8, 9, 10, 11, 12]
    with load(bundles[family], threads=1) as model:
        expected = model.logits(asked(image(file), text(prompt))[0], answer)
    use = f"async (model, messages) => (await model.logits(messages, {answer})).map((row) => [...row])"
    found = np.array(using(tab, family, '{ backend: "webgpu" }', prompt, use))
    assert np.abs(found - expected).max() <= 1e-3


HOST = {"Cast", "Cos", "Sin", "Concat"}
"""What runs on the CPU of all targets: positions of tokens and their angles, and sizes of reshaped values."""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_large_operator_leaves_the_gpu(
    tab: Tab, bundle: Bundles, bundles: dict[str, Path], family: str, precision: str
) -> None:
    name = f"{family}-{precision}"
    bundles[name] = bundle(family, "small", precision, "web")
    placed = placements(tab, name)
    assert placed["WebGpuExecutionProvider"] >= {"Gemm", "MultiHeadAttention", "GroupQueryAttention"}
    assert placed["CPUExecutionProvider"] <= HOST


def test_no_quantized_operator_leaves_the_gpu(tab: Tab, bundles: dict[str, Path], tmp_path: Path) -> None:
    bundles["quantized"] = tmp_path / "int4"
    export(export_plan(REFERENCE, tmp_path / "int4", precision="int4", target="web", samples=2))
    placed = placements(tab, "quantized")
    assert placed["WebGpuExecutionProvider"] >= {"MatMulNBits", "GatherBlockQuantized"}
    assert placed["CPUExecutionProvider"] <= HOST


def placements(tab: Tab, bundle: str) -> dict[str, set[str]]:
    """The operators of both graphs by where ONNX Runtime runs them."""
    found: dict[str, set[str]] = {}
    provider = ""
    for line in str(tab.value(f"logOf({bundle!r})")).splitlines():
        if placed := re.search(r"placed on \[(\w+)\]", line):
            provider = placed[1]
        elif provider and (node := re.search(r" (\w+) \([^)]*\)$", line)):
            found.setdefault(provider, set()).add(node[1])
    return found


def test_float16_is_refused_where_the_gpu_has_none(
    tab: Tab, bundle: Bundles, bundles: dict[str, Path], page: tuple[Path, str]
) -> None:
    if tab.value("navigator.gpu.requestAdapter().then((adapter) => adapter.features.has('shader-f16'))"):
        pytest.skip("this adapter has float16")
    bundles["fp16"] = bundle("qwen2_5_vl", "small", "fp16", "web")
    found = using(tab, "fp16", '{ backend: "webgpu" }', page[1], "() => 'loaded'")
    assert found.startswith("InstallError: the WebGPU adapter has no float16 (shader-f16), which the bundle needs (")


def test_webgpu_runs_only_its_own_target(
    tab: Tab, bundle: Bundles, bundles: dict[str, Path], page: tuple[Path, str]
) -> None:
    bundles["cpu"] = bundle("qwen2_5_vl", "small", "fp32")
    found = using(tab, "cpu", '{ backend: "webgpu" }', page[1], "() => 'loaded'")
    assert "is for target cpu; WebGPU runs target web (" in found


def test_a_lost_gpu_ends_the_answer(
    tab: Tab, bundle: Bundles, bundles: dict[str, Path], page: tuple[Path, str]
) -> None:
    """And a bundle that is loaded again answers."""
    bundles["tiny"] = bundle("qwen2_5_vl", "small", "fp32", "web")
    tab.value("""{
        const { requestDevice } = GPUAdapter.prototype;
        GPUAdapter.prototype.requestDevice = async function (...options) {
            return (globalThis.device = await requestDevice.apply(this, options));
        };
    }""")
    lose = "async (model, messages) => { device.destroy(); await device.lost; return model.generate(messages); }"
    found = using(tab, "tiny", '{ backend: "webgpu", worker: false }', page[1], lose)
    assert found.startswith("EngineError: the GPU failed: the GPU was lost: ")
    assert found.endswith('(load the bundle again, or with backend: "wasm")')
    use = "async (model, messages) => (await model.logits(messages, [5])).length"
    assert using(tab, "tiny", '{ backend: "webgpu", worker: false }', page[1], use) == 1


def test_without_an_adapter_webassembly_computes(
    address: str, bundle: Bundles, bundles: dict[str, Path], page: tuple[Path, str], tmp_path: Path
) -> None:
    """Unless WebGPU was asked for, which is an error."""
    bundles["web"] = bundle("qwen2_5_vl", "small", "fp32", "web")
    with Browser(tmp_path / "profile") as browser:
        tab = opened(browser, address)
        found = using(tab, "web", '{ backend: "webgpu" }', page[1], "() => 'loaded'")
        assert found == 'InstallError: there is no WebGPU adapter here (use backend: "wasm")'
        use = "async (model, messages) => (await model.logits(messages, [5])).length"
        assert using(tab, "web", "{}", page[1], use) == 1
