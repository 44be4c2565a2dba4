"""python -m liblisa.evaluation: lm-evaluation-harness's own command, with --model liblisa."""

from ..data._extras import need

need("lm_eval", "eval")

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    from . import harness  # noqa: F401  registers the model

    cli_evaluate()
