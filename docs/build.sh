#!/usr/bin/env bash
# Build the docs site into build/site. A broken link, an unknown page or a name without a docstring is an error.
#
#   bash docs/build.sh            # needs the extra docs: pip install -e '.[docs]'
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rm -rf build/docs build/site
mkdir -p build/docs
git ls-files -z --cached --others --exclude-standard -- '*.md' '*.png' '*.svg' ':!tests' ':!build' | tar --null -T - -c | tar -x -C build/docs
"${PYTHON:-python}" -m zensical build --strict --clean
