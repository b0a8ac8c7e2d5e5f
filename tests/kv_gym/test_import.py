import subprocess
import sys


def test_importing_kv_gym_loads_no_torch_and_registers_ids():
    code = (
        "import sys, kv_gym, gymnasium; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules;"
        "print('KVEvict-AIME-v0' in gymnasium.registry)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
