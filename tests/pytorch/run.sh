#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh TEST.py [ARGUMENT]...: runs a test of the PyTorch package with a Python that has torch: CARDEA_PYTHON if set, else the
# first that has it of python3 in the PATH and the system's. Exit status 77, and a word why, where there is none.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=$here/../../examples/pytorch:$here${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
for python in ${CARDEA_PYTHON:-python3 /usr/bin/python3}; do
  if command -v "$python" >/dev/null && "$python" -c 'import torch' 2>/dev/null; then
    exec "$python" "$here/$1" "${@:2}"
  fi
done
echo "skipped: no Python with torch here (apt-get install python3-torch, or set CARDEA_PYTHON)"
exit 77
