"""The git commit of this code, and the refusal of measurements that none describes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dynconv.errors import DynconvError

_PACKAGE = Path(__file__).resolve().parents[1]


def git_commit(*written: Path) -> str | None:
    """The commit of the checkout that holds this code, with "-dirty" if it has changes; None outside a checkout.

    Changes to the files `written` do not count.
    """
    if not _in_checkout():
        return None
    commit = _git("rev-parse", "HEAD")
    return commit and commit + ("-dirty" if _changed(*written) else "")


def require_committed(*written: Path) -> None:
    """Refuses a measurement that no commit describes. Does nothing outside a checkout.

    Args:
        written: the files that the measurement itself writes; changes to them do not count.

    Raises:
        DynconvError: the checkout has uncommitted changes.
    """
    if _in_checkout() and (changed := _changed(*written)):
        names = changed[0] + (f" and {len(changed) - 1} more" if changed[1:] else "")
        raise DynconvError(
            f"uncommitted changes ({names}): no commit would describe what is measured; commit them, or add "
            "--allow-uncommitted"
        )


def _changed(*besides: Path) -> list[str]:
    """Tracked files that differ from the commit, as paths relative to the top of the checkout."""
    top = _git("rev-parse", "--show-toplevel") or "."
    outside = [f":(exclude,literal){path.resolve()}" for path in besides if path.resolve().is_relative_to(top)]
    found = _git("-C", top, "status", "--porcelain", "--untracked-files=no", "--", ".", *outside) or ""
    return [line.strip().split(maxsplit=1)[1] for line in found.splitlines()]


def _in_checkout() -> bool:
    """Whether git tracks this package; False also if it is installed inside another project's checkout."""
    return bool(_git("ls-files", str(_PACKAGE)))


def _git(*words: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(_PACKAGE), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
