#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# No file names a place that only the machine had on which it was written: directories such as /wor[k], or fixed names
# under the temporary directory (mktemp makes better ones).
set -euo pipefail
cd "$(dirname "$0")/../.."
if tests/lint/files.sh | xargs -0 grep -nIE '(^|[^[:alnum:]_.}/-])/(work|home/[[:alnum:]]+|root|tmp/[[:alnum:]])(/|[^[:alnum:]]|$|[[:alnum:]])' |
  grep -vE '^tests/lint/self_contained_prose\.sh:'; then
  echo "these lines name places of one machine"
  exit 1
fi
