"""Eight claims and three labellings, for processes that import nothing else of the tests."""

import numpy as np

from icmjax.claims import claims_from_rows

CLAIMS = claims_from_rows(
    [
        {
            "persona": "Japan",
            "choice": f"Rice {'helps ' * (index % 4)}{index}",
            "consistency_id": f"{index}",
        }
        for index in range(8)
    ]
)
LABELS = np.random.default_rng(0).integers(-1, 2, (3, 8)).astype(np.int8)
