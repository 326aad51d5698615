#!/usr/bin/env bash
# Gradescope runs this once, when it builds the container: Python with what students are given, and bubblewrap.
set -euo pipefail
apt-get update
apt-get install -y python3 python3-venv bubblewrap
python3 -m venv /opt/hw7
/opt/hw7/bin/python -m pip install --quiet 'numpy>=1.26.0' 'scipy>=1.11.3' 'matplotlib>=3.8.0'
