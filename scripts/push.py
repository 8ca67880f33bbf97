"""Push a finished run to the Hub: python scripts/push.py FOLDER [--repo ID] [--revision R] [--private] [--create_pr]"""

import sys

from hf_mixup.cli.push import main

if __name__ == "__main__":
    sys.exit(main())
