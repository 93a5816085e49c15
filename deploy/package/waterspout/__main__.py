import sys

from waterspout import main

sys.exit(main())
