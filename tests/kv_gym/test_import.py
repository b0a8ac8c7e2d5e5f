import subprocess
import sys


def test_importing_kv_gym_loads_no_torch_and_registers_ids():
    code = (
        "import sys, kv_gym, gymnasium; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules;"
        "print('KVEvict-AIME-v0' in gymnasium.registry)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_kv_gym_never_imports_kv_agents():
    import ast
    from pathlib import Path

    import kv_gym

    for path in Path(kv_gym.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "kv_agents" for name in names), path
