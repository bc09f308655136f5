"""Imports point one way: each module imports only from layers above its own."""

import ast
from pathlib import Path

import clipkit

PACKAGE = Path(clipkit.__file__).parent
LAYERS = [
    ["errors", "types"],
    ["allocator", "packages", "components", "sentences", "imagenet", "launch", "locks", "signals"],
    ["models", "data", "losses"],
    ["encode"],
    ["convert"],
    ["classify", "embed"],
    ["evaluate"],
    ["train"],
    ["report"],
    ["labelling"],
    ["recipe"],
    ["run"],
    ["rounds"],
    ["cli"],
    ["__main__", "__init__"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ONLY = {
    "open_clip": {
        "imagenet.py",
        "models/from_open_clip.py",
        "models/open_clip_files.py",
        "models/open_clip_tokenizers.py",
        "models/open_clip_towers.py",
    },
    "peft": {"models/lora.py"},
    "pydantic": {"components.py"},
    "yaml": {"recipe/plan.py", "recipe/read.py", "data/manifest.py"},
    "resvg_py": {"data/openmoji.py"},
    "timm": {"models/paired_towers.py", "models/precision.py"},
    "accelerate": {"train/processes.py"},
    "onnxruntime": {"models/onnx_export.py"},
    "ray": {"embed/on_ray.py"},
    "datasets": {"data/hub.py"},
    "rich": {"report/terminal.py"},
    "matplotlib": {"report/trade_off.py"},
    "usearch": {"embed/index.py"},
}


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def part(module: str) -> str:
    """Return the layer's name of `clipkit.models.storage.load_model`: models."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_part_has_a_layer() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__pycache__", "py"} <= set(RANK)


def test_imports_point_up() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        own = relative.parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # lazy: names load on first use
        for module in imports(path):
            if not module.startswith("clipkit."):
                continue
            other = part(module)
            if other != own and RANK.get(other, -1) >= RANK[own]:
                wrong.append(f"{relative} imports {module}")
    assert not wrong


def test_swappable_libraries_are_imported_in_one_place() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE).as_posix()
        for module in imports(path):
            top = module.split(".")[0]
            if top in ONLY and relative not in ONLY[top]:
                wrong.append(f"{relative} imports {top}")
    assert not wrong


def test_tests_mirror_the_package() -> None:
    tests = Path(__file__).parent
    missing = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
        and not (tests / path.relative_to(PACKAGE).with_name(f"test_{path.name}")).is_file()
    ]
    assert not missing


def test_no_annotations_import_and_no_print() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert "__future__" not in path.read_text(), path
