# The entry points source this file: it makes .venv, where the package is linked to the tree, so that every edit is seen.

prepare() {  # EXTRA: one of pyproject.toml, or "" for the dependencies alone. Installs only if something is missing.
  local python=${PYTHON:-python3} stamp=".venv/.prepared-$1" extra=${1:+[$1]}
  if [ ! -x .venv/bin/pip ]; then  # pip comes last: without it, making the environment was cut short
    echo "Making a virtual environment in .venv (once) ..." >&2
    "$python" -m venv .venv
  fi
  if [ ! "$stamp" -nt pyproject.toml ] || [ ! "$stamp" -nt scripts/constraints.txt ] ||
    ! compgen -G '.venv/lib/python3*/site-packages/__editable__.token_worker-*' >/dev/null; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --only-binary atheris --constraint scripts/constraints.txt --editable ".$extra" || return
    rm -rf build worker/*.egg-info
    touch "$stamp"
  fi
}
