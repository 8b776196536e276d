"""Methods that misbehave: each sits in a run beside innocent ones, whose bits must be those of a run without it."""

from __future__ import annotations

from typing import Any

#: Name -> what bench.plugin_text makes a plugin file of.
MISBEHAVING: dict[str, dict[str, Any]] = {
    "raises": {"loss": "if step.progress > 0.3: raise ValueError('no luck')"},
    "diverges": {"loss": "if step.epoch == 2: terms['ce'] = terms['ce'] * float('nan')"},
    "exits": {"loss": "if step.progress > 0.3: os._exit(0)"},
    "aborts": {"loss": "if step.progress > 0.3: os.abort()"},
    "mutes": {"loss": "if step.progress > 0.3: os.closerange(0, 256)"},
    "beyond": {"top": "class Beyond(BaseException): pass", "loss": "raise Beyond('everything')"},
    "writes": {
        "loss": "step.x.data.zero_(); step.y.numpy()[:] = 0; step.teacher.logits.data.zero_()",
        "needs": ["teacher"],
    },
    "seeds": {"loss": "torch.manual_seed(1); torch.rand(9)"},
    "imprecise": {
        "top": "torch.set_float32_matmul_precision('medium')",
        "loss": "torch.set_default_dtype(torch.float64)",
    },
    "patches": {"loss": "F.cross_entropy = lambda *a, **k: a[0].sum() * 0"},
    "patchesearly": {"top": "F.conv2d = lambda *a, **k: 1 / 0"},
    "hooks": {
        "top": "from torch.nn.modules.module import register_module_forward_hook as on_all",
        "loss": "on_all(lambda module, given, found: found * 0 if torch.is_tensor(found) else found)",
    },
    "unsaved": {"setup": "pass\n\n    def get_extra_state(self):\n        return open(os.devnull)"},
    "environs": {"top": "os.environ['DNNL_MAX_CPU_ISA'] = 'SSE41'; os.chdir('/')"},
    "floods": {"loss": "print('x' * 1000); sys.stdout.flush()"},
    "threads": {"loss": "torch.set_num_threads(3)"},
}
